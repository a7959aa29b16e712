"""The model, the batch and the adapters of `recorded/deep_lora.npz` as torch sees them; no package code is used."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


@cache
def arrays() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "recorded" / "deep_lora.npz") as file:
        return {name: file[name] for name in file.files}


def section(name: str) -> dict[str, Tensor]:
    """Everything recorded under `name/`, keyed by what follows."""
    keys = [key for key in arrays() if key.startswith(f"{name}/")]
    found = {key.removeprefix(f"{name}/"): torch.from_numpy(arrays()[key]) for key in keys}
    assert found, f"nothing is recorded under {name!r}"
    return found


def modules(name: str) -> dict[str, dict[str, Tensor]]:
    """Factors of each adapted module of a section: {"bert.encoder...query": {"W1": ..., "left": ...}}."""
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, value in section(name).items():
        path, *_, factor = key.split("|")
        grouped.setdefault(path.removesuffix("/kernel").replace("/", "."), {})[factor] = value
    return grouped


def model() -> BertForSequenceClassification:
    """The recorded BERT regression model; Flax kernels are (in, out)."""
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, type_vocab_size=2, num_labels=1, hidden_act="gelu", layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    bert = BertForSequenceClassification(config)
    state = {}
    for key, value in section("base").items():
        *path, leaf = key.split("|")
        state[".".join([*path, LEAVES[leaf]])] = value.T if leaf == "kernel" else value
    missing = bert.load_state_dict(state, strict=False).missing_keys
    assert not [name for name in missing if not name.endswith("_ids")], missing
    return bert.eval()


def batch() -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs, and labels."""
    recorded = section("batch")
    labels = recorded.pop("labels")
    return {name: value.long() for name, value in recorded.items()}, labels


def loss(bert: torch.nn.Module) -> Tensor:
    inputs, labels = batch()
    return (bert(**inputs).logits[..., 0] - labels).square().mean()
