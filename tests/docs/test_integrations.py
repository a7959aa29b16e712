"""The blocks of docs/integrations.md and docs/modality.md on other trainers run, on models of two layers.

Those of Lightning, diffusers and open_clip were tried once, as the pages say.
"""

from __future__ import annotations

import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import modality
from deep_lora import DeepLoraConfig
from tests.models import adapt, bert_classifier, disturb_, ids, layers_of, llama, word_tokenizer
from tests.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
WORDS = "what is the capital of france paris blue name a color say hello there count to three one two".split()
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf8")
OF_MODALITY = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "modality.md").read_text(encoding="utf8"), re.S)
SIZES = {"vocab_size": len(WORDS) + 3, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


def run(section: str, names: dict[str, Any], trainer: str | None = None) -> dict[str, Any]:
    """Run the first section's block, which holds the imports, and those of this section make this trainer."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.split(f"## {section}\n")[1].split("\n## ")[0], re.S)
    imports = re.search(r"```python\n(.*?)\n\n", PAGE, re.S)
    assert imports is not None
    exec(imports[1], names)
    chosen = [block for block in blocks if trainer is None or f" = {trainer}(name" in block]
    for block in chosen:
        exec(compile(block, f"integrations.md, {section}", "exec"), names)
    assert chosen
    return names


def has_moved(model: nn.Module) -> bool:
    return all(layer.get_delta_weight("default").any() for layer in layers_of(model))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def texts_of(*columns: str) -> Dataset:
    def text(start: int) -> str:
        return " ".join(WORDS[(start + step) % len(WORDS)] for step in range(4)) + " "

    return Dataset.from_list([{name: text(5 * row + at) for at, name in enumerate(columns)} for row in range(32)])


def test_the_block_for_transformers(folder: Path) -> None:
    data = [{"input_ids": row, "labels": row[0] % 2} for row in ids(40)]
    assert has_moved(run("transformers", {"model": bert_classifier(), "data": data})["model"])


def test_the_block_for_a_search(folder: Path) -> None:
    pytest.importorskip("optuna")
    data = [{"input_ids": row, "labels": row[0] % 2} for row in ids(8)]
    names = run("Hyperparameter search", {"new_base": bert_classifier, "data": data, "held_out": data})
    assert names["trainer"].state.num_train_epochs == names["best"].hyperparameters["num_train_epochs"]
    assert has_moved(names["trainer"].model)


@pytest.mark.parametrize("kind", ["SFT", "DPO", "GRPO", "Reward"])
def test_the_blocks_for_trl(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg
    config = LlamaConfig(
        **SIZES, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained("base")
    word_tokenizer(WORDS).save_pretrained("base")
    on_a_cpu = {"use_cpu": True, "bf16": False} | ({"max_completion_length": 6} if kind == "GRPO" else {})
    monkeypatch.setattr(trl, f"{kind}Config", partial(getattr(trl, f"{kind}Config"), **on_a_cpu))
    names = {
        "name": "base", "texts": texts_of("prompt", "completion"), "prompts": texts_of("prompt").select(range(4)),
        "preferences": texts_of("prompt", "chosen", "rejected"),
        "reward": lambda completions, **others: [float(len(set(text.split()))) for text in completions],
        "config": DeepLoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),  # of the first block
    }  # fmt: skip
    assert has_moved(run("TRL", names, f"{kind}Trainer")["trainer"].model)


def test_the_block_that_copies_a_trained_adapter_to_the_reference_of_trl(folder: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL needs Python 3.11")
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "set_peft_model_state" in block)
    model = adapt(llama(), r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    disturb_(model)
    names = {
        "DPOTrainer": partial(trl.DPOTrainer, processing_class=word_tokenizer(WORDS)), "peft_model": model,
        "arguments": trl.DPOConfig("runs", use_cpu=True, bf16=False), "preferences": texts_of("chosen", "rejected"),
    }  # fmt: skip
    exec(block, names)
    for layer in layers_of(names["trainer"].model):
        trained = layer.get_delta_weight("default")
        assert trained.any() and torch.equal(layer.get_delta_weight("ref"), trained)


@pytest.fixture
def encoder(folder: Path) -> SentenceTransformer:
    """A sentence encoder, saved in the folder of this name."""
    BertModel(BertConfig(**SIZES, num_attention_heads=2, max_position_embeddings=32)).save_pretrained("bert")
    word_tokenizer(WORDS).save_pretrained("bert")
    transformer = Transformer("bert")
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())])
    model.save("encoder")
    return model


def test_the_block_for_sentence_transformers(encoder: SentenceTransformer) -> None:
    names = run("sentence-transformers", {"encoder": "encoder", "pairs": texts_of("anchor", "positive")})
    assert has_moved(names["model"][0].model)


def test_the_blocks_on_alignments_and_losses_for_sentence_transformers(encoder: SentenceTransformer) -> None:
    of_clip, aligned, trained = OF_MODALITY
    assert "open_clip" in of_clip
    pairs = texts_of("anchor", "positive")
    before = encoder.encode(pairs["anchor"])
    names: dict[str, Any] = {
        name: value for module in (modality, sentence_transformers) for name, value in vars(module).items()
    }
    names |= {"images": pairs["anchor"], "texts": pairs["positive"], "pairs": pairs}
    names["args"] = sentence_transformers.SentenceTransformerTrainingArguments("runs", max_steps=2, report_to="none")
    exec(aligned.replace('"clip-ViT-B-32"', '"encoder"'), names)
    assert not torch.equal(torch.tensor(names["model"].encode(pairs["anchor"])), torch.tensor(before))
    exec(trained, names)
    middle = 0.125  # of the schedule, in the second step of two
    assert modality.find_temperature(names["loss"]).tau() == pytest.approx(middle)


def test_the_block_for_accelerate(folder: Path) -> None:
    data = [{"input_ids": row, "labels": row} for row in ids(20)]
    loader = torch.utils.data.DataLoader(data, batch_size=4)  # the last of five batches makes a step of its own
    model = adapt(llama(), r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the optimizer makes more steps")
        names = run("accelerate", {"model": model, "loader": loader, "epochs": 4})
    assert has_moved(model)
    (group,) = names["optimizer"].optimizer.param_groups
    assert group["step_rule_steps"] == names["steps"] == 12
