"""Whether a saved adapter will be loaded where models are served, and why not, from its files alone.

Each rule is that of the program's published source: PEFT 0.21, transformers 5.18, sentence-transformers 6.2, vLLM
0.33.0 (`lora/peft_helper.py`, `lora/lora_model.py`), SGLang 0.5.23 (`srt/lora`), text-generation-inference 3.3
(`adapters/lora.py`, `utils/adapter.py`), llama.cpp (`llama-adapter.cpp`, by way of a conversion) and diffusers 0.42.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from deep_lora.export.folders import read_config
from deep_lora.export.gguf_bases import base_in_llama_cpp
from deep_lora.export.scales import contradictions, other_scale
from deep_lora.export.target_names import PREFIX, plain_name
from deep_lora.files import AdapterFileError, Shapes, read_shapes

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank can be
VLLM_DEFAULT_RANK = 16
_VLLM_HEADS = ("classifier", "score")
_DECODER_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SGLANG_LAYERS = (
    *_DECODER_LAYERS, "qkv_proj", "gate_up_proj", "out_proj", "in_proj", "embed_tokens", "lm_head", "q_a_proj",
    "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "fc1_latent_proj", "fc2_latent_proj",
)  # fmt: skip
_LORA_TENSOR = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?$")
_BASE_COPIES = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
_DIFFUSERS_FILE, _DIFFUSERS_PARTS = "pytorch_lora_weights.safetensors", ("unet.", "transformer.", "text_encoder")


@dataclass(frozen=True)
class Serving:
    """Whether one program loads the adapter: reasons against it, what to tell the program, and what is not known."""

    program: str
    reasons: list[str]
    advice: str = ""
    unknown: str = ""

    @property
    def loads(self) -> bool:
        """Tell whether there is no reason against it, and nothing that could not be told."""
        return not self.reasons and not self.unknown


@dataclass(frozen=True)
class _Facts:
    """What the files say: fields of the config, names of files, ranks of A and B, and tensors that are not LoRA's."""

    folder: Path
    config: dict[str, Any]
    files: set[str]
    ranks: dict[str, int] = field(default_factory=dict)
    right_ranks: dict[str, int] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    others: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.config["peft_type"]).upper()

    @property
    def highest(self) -> int:
        return max(self.ranks.values(), default=1)


def check_serving(path: str | os.PathLike[str]) -> list[Serving]:
    """Say for PEFT, transformers, vLLM and others whether they load the adapter at the root of a folder.

    Nothing is executed, and of the weights only the header is read. Whether a server knows the class of the base model
    is checked only for llama.cpp, from the configuration of the base if it is on this machine.

    Raises:
        AdapterFileError: not a folder of an adapter, or a file is damaged.

    >>> import tempfile, torch
    >>> from peft import LoraConfig, get_peft_model
    >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     found = check_serving(folder)
    >>> found[0].program, found[0].loads
    ('PEFT', True)
    """
    facts = _facts_of(Path(path))
    if facts.kind not in ("LORA", "DEEP_LORA"):
        raise AdapterFileError(
            f"{path} holds an adapter of type {facts.kind[:40]}; only LORA and DEEP_LORA can be checked"
        )
    damaged = [] if facts.kind != "LORA" else contradictions(facts.config, facts.ranks, facts.right_ranks)
    return [
        _answer(name, damaged if damaged and name != "diffusers" else rule(facts), facts)
        for name, rule in _RULES.items()
    ]


def _answer(program: str, reasons: list[str], facts: _Facts) -> Serving:
    if program == "llama.cpp" and not reasons:
        return Serving(program, reasons, *base_in_llama_cpp(facts.config))
    return Serving(program, reasons, _ADVICE.get(program, _nothing)(facts))


def _facts_of(folder: Path) -> _Facts:
    if not (folder / CONFIG_NAME).is_file():
        raise AdapterFileError(f"{folder} is not the folder of an adapter: it has no {CONFIG_NAME}")
    config = read_config(folder / CONFIG_NAME)
    files = {path.name for path in folder.iterdir()}
    if SAFETENSORS_WEIGHTS_NAME not in files:
        if WEIGHTS_NAME in files:
            raise AdapterFileError(
                f"{folder / WEIGHTS_NAME} is a pickle, which can run code when it is read; save it as safetensors"
            )
        raise AdapterFileError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}, so there is nothing to load")
    return _with_tensors(_Facts(folder, config, files), read_shapes(folder / SAFETENSORS_WEIGHTS_NAME))


def _with_tensors(facts: _Facts, shapes: Shapes) -> _Facts:
    for name, shape in shapes.items():
        found = _LORA_TENSOR.match(name)
        if name.endswith(_BASE_COPIES):  # PEFT saves them as they were, beside an adapter of an embedding
            continue
        if found is None:
            facts.others.append(name.removeprefix(PREFIX))
        elif found[2] == "A" and shape:
            facts.ranks[plain_name(found[1])] = shape[0]
            if "lora_embedding" in name:
                facts.embeddings.add(plain_name(found[1]))
        elif len(shape) > 1:
            facts.right_ranks[plain_name(found[1])] = shape[1]
    return facts


# ---- rules: facts -> reasons against loading -------------------------------------------------------------------------

Rule = Callable[[_Facts], list[str]]


def _nothing(facts: _Facts) -> str:
    return ""


def _is_lora(facts: _Facts) -> list[str]:
    if facts.kind == "LORA":
        return []
    return ["it does not know DEEP_LORA: write the same update as plain LoRA (deep-lora convert, or save_as_lora)"]


def _peft(facts: _Facts) -> list[str]:
    if facts.kind == "LORA":
        return []
    return ["DEEP_LORA needs `import deep_lora` before loading; or write it as plain LoRA (deep-lora convert)"]


def _transformers(facts: _Facts) -> list[str]:
    unnamed = [] if facts.config.get("base_model_name_or_path") else ["the config names no base model to load first"]
    return [*_peft(facts), *unnamed]


def _sentence_transformers(facts: _Facts) -> list[str]:
    tokenizer = [] if facts.files & {"tokenizer_config.json", "tokenizer.json"} else ["the folder has no tokenizer"]
    return [*_transformers(facts), *tokenizer]


def _vllm(facts: _Facts) -> list[str]:
    config, whole = facts.config, facts.config.get("modules_to_save") or []
    heads = [name for name in whole if name not in _VLLM_HEADS]
    known = [name for name in facts.others if name.rpartition(".")[0].rpartition(".")[2] in _VLLM_HEADS]
    rest = sorted(set(facts.others) - set(known))
    reasons = _is_lora(facts)
    if heads:
        reasons.append(f"of the modules trained whole it takes only {' and '.join(_VLLM_HEADS)}, not {_few(heads)}")
    if config.get("bias", "none") != "none":
        reasons.append(f"it does not take trained biases (bias={config['bias']!r})")
    if rest and not heads:
        reasons.append(f"it takes only the tensors of LoRA, not {_few(rest)}")
    if facts.highest > VLLM_RANKS[-1]:
        reasons.append(f"its ranks end at {VLLM_RANKS[-1]}, and the adapter has {facts.highest}; raise --tolerance")
    return reasons + other_scale(facts.config, facts.ranks) + _variants(facts)


def _sglang(facts: _Facts) -> list[str]:
    reasons = _is_lora(facts) + _names_only(facts)
    unknown = {name.rpartition(".")[2] for name in facts.ranks} - set(_SGLANG_LAYERS)
    if unknown:
        reasons.append(f"it has no LoRA for the layers {_few(sorted(unknown))}")
    if "added_tokens.json" in facts.files:
        reasons.append("it does not take adapters with tokens of their own (added_tokens.json)")
    return (
        reasons
        + _one_rank(facts)
        + other_scale(facts.config, facts.ranks, rslora=False)
        + _left_out(facts)
        + _variants(facts)
    )


def _tgi(facts: _Facts) -> list[str]:
    reasons = _is_lora(facts)
    last = {name.rpartition(".")[2] for name in facts.ranks}
    if unknown := last - {*_DECODER_LAYERS, "lm_head"}:
        reasons.append(f"it silently leaves out the updates of the layers {_few(sorted(unknown))}")
    layers = {kind: sum(name.endswith(f".{kind}") for name in facts.ranks) for kind in last & set(_DECODER_LAYERS)}
    if len(set(layers.values())) > 1 or facts.config.get("layers_to_transform"):
        reasons.append("it silently leaves out the updates of a kind of layer that is not adapted in every block")
    return reasons + _one_rank(facts) + other_scale(facts.config, facts.ranks) + _left_out(facts) + _variants(facts)


def _llama_cpp(facts: _Facts) -> list[str]:
    reasons = _is_lora(facts)
    if facts.embeddings:
        reasons.append(f"the conversion takes only linear layers, not the embeddings {_few(sorted(facts.embeddings))}")
    return reasons + _left_out(facts) + _variants(facts)


def _diffusers(facts: _Facts) -> list[str]:
    if _DIFFUSERS_FILE in facts.files:
        parts = read_shapes(facts.folder / _DIFFUSERS_FILE)
        return [] if any(name.startswith(_DIFFUSERS_PARTS) for name in parts) else [f"{_DIFFUSERS_FILE} names no part"]
    return [
        f"it does not read PEFT's folders, and silently loads nothing from them: write {_DIFFUSERS_FILE} with "
        "`StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=deep_lora.to_lora(unet)[1])`"
    ]


def _names_only(facts: _Facts) -> list[str]:
    targets = facts.config.get("target_modules")
    if isinstance(targets, list) or targets in ("all", "all-linear"):
        return []
    return [f"it takes names as target_modules, not {str(targets)[:60]!r}; export again, or list the names"]


def _one_rank(facts: _Facts) -> list[str]:
    if len(set(facts.ranks.values())) < 2 and not facts.config.get("rank_pattern"):
        return []
    return ["it takes one rank for all modules; export with `ranks='uniform'`"]


def _left_out(facts: _Facts) -> list[str]:
    """What is trained beside LoRA, and would silently be missing, or is refused."""
    if not facts.others:
        return []
    return [f"what was trained beside LoRA would be missing: {_few(sorted(facts.others))}"]


def _variants(facts: _Facts) -> list[str]:
    named = {"use_dora": "DoRA", "lora_bias": "biases of LoRA layers", "layer_replication": "replicated layers"}
    return [f"it does not know {what} ({name})" for name, what in named.items() if facts.config.get(name)]


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _vllm_advice(facts: _Facts) -> str:
    needed = next((rank for rank in VLLM_RANKS if rank >= facts.highest), VLLM_RANKS[-1])
    return f"--enable-lora --max-lora-rank {needed}" if needed > VLLM_DEFAULT_RANK else "--enable-lora"


_RULES: dict[str, Rule] = {
    "PEFT": _peft, "transformers": _transformers, "sentence-transformers": _sentence_transformers, "vLLM": _vllm,
    "SGLang": _sglang, "TGI": _tgi, "llama.cpp": _llama_cpp, "diffusers": _diffusers,
}  # fmt: skip
_ADVICE: dict[str, Callable[[_Facts], str]] = {
    "vLLM": _vllm_advice,
    "SGLang": lambda facts: f"--enable-lora --max-lora-rank {facts.highest}",
}
