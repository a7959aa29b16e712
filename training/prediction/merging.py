"""An adapter merged into the unquantized weights of its base model: a model of transformers that needs no PEFT."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import PeftModel, PeftType, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from training.errors import UsageError, loading_error
from training.models.loading import load_base
from training.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TRAINABLE
from training.prediction.runs import FinishedRun, Head, model_settings
from training.settings.common import ModelArguments

_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification", "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM", "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering", "FEATURE_EXTRACTION": "AutoModel",
}  # fmt: skip
_HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight", "classifier.dense.weight")
_TOKENS = 8  # of the probe
_OF_CHANGE, _OF_OUTPUT = 1e-2, 1e-5  # by which outputs may differ after merging, in float32
_REFUSALS = (ValueError, NotImplementedError, AttributeError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Mergeable:
    """An adapter on disk, and what has to be known to load its base model.

    Attributes:
        place: the folder with the config and the tensors.
        fields: of the config.
        names: of the tensors.
        base: how the base model is loaded, in float32.
        head: what it is loaded for.
        quantized: whether it was trained on quantized weights.
    """

    place: Path
    fields: dict[str, Any]
    names: dict[str, list[int]]
    base: ModelArguments
    head: Head
    quantized: bool


class Merged(NamedTuple):
    """A merged model in float32, how many modules were changed, and how much of the update a narrower type loses."""

    model: nn.Module
    modules: int
    lost: float


def read_mergeable(adapter: Path, run: FinishedRun | None, model: str | None, *, trust: bool = False) -> Mergeable:
    """Read what is to be merged; of an adapter with a plain LoRA at its root, the Deep LoRA of the same update.

    Args:
        adapter: its folder.
        run: that wrote it, if it is known.
        model: the base model, if it is elsewhere by now.
        trust: run Python code that the base's repository brings along.

    Raises:
        UsageError: there is no adapter, or one that cannot be merged.
    """
    if run is not None:
        _refuse_run(run)
    place = adapter / TRAINABLE if (adapter / TRAINABLE / ADAPTER_CONFIG).is_file() else adapter
    try:
        fields = json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        with safe_open(place / ADAPTER_WEIGHTS, framework="pt") as file:
            names = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
        method = str(fields["peft_type"]).upper()
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(
            f"{adapter} is not the folder of an adapter or of a run: {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} cannot be "
            f"read ({error})"
        ) from error
    _refuse_method(adapter, method)
    settings = {} if run is None else {name: run.setting(name) for name in ("revision", "gguf_file")}
    if model or fields.get("base_model_name_or_path"):
        base = ModelArguments(model=model or fields["base_model_name_or_path"], trust_remote_code=trust, **settings)
    else:
        raise UsageError(f"{adapter} does not name its base model; pass --model")
    quantized = run is not None and bool(run.setting("load_in_4bit") or run.setting("load_in_8bit"))
    return Mergeable(place, fields, names, base, _head(adapter, fields, names, run), quantized)


def _refuse_run(run: FinishedRun) -> None:
    """Raise for a run of which a merged model would lose a part."""
    if run.results["command"] == "contrastive":
        raise UsageError(
            f"{run.folder} is a run of contrastive, whose temperature and projections are beside the adapter and would "
            "be lost; load it with training.pairs.load_contrastive"
        )
    if run.setting("normalized_head"):
        raise UsageError(
            f"{run.folder} was trained with --normalized_head, and no class of transformers has such a head, so that a "
            "merged model would compute something else; use the adapter"
        )


def _refuse_method(adapter: Path, method: str) -> None:
    """Raise for a method whose update no weight of the base model can hold."""
    if method in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "ADAPTION_PROMPT"):
        raise UsageError(f"{adapter} holds a {method}, which adds inputs and changes no weight; it cannot be merged")
    if method not in PeftType.__members__:
        raise UsageError(f"{adapter} holds a {method[:40]}, which PEFT does not know")


def _head(adapter: Path, fields: dict[str, Any], names: dict[str, list[int]], run: FinishedRun | None) -> Head:
    """Tell which class of transformers the base model has, and with how many labels."""
    if run is not None:
        return Head(run.task, run.results["auto_class"], model_settings(run))
    task = str(fields.get("task_type") or "")
    mapping = fields.get("auto_mapping")
    own = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    known = isinstance(own, str) and own.isidentifier() and hasattr(transformers, own)
    found = _AUTO_CLASSES.get(task, own if known else None)
    if found is None:
        raise UsageError(
            f"{adapter} names neither a task nor a class of transformers, so that its base model cannot be loaded; "
            "merge it in Python with merge_and_unload"
        )
    labels = [shape[0] for name, shape in names.items() if name.endswith(_HEADS)]
    return Head(task or found, found, {"num_labels": labels[-1]} if labels and task.endswith("_CLS") else {})


def stored_precision(base: ModelArguments, token: str | None) -> torch.dtype:
    """Return the precision in which the base model is stored.

    Raises:
        UsageError: its configuration cannot be read, or its weights are quantized.
        RunError: network or disk fail.
    """
    name = str(base.model)
    try:
        found = transformers.AutoConfig.from_pretrained(
            name, trust_remote_code=base.trust_remote_code, token=token, revision=base.revision or "main",
            **({"gguf_file": base.gguf_file} if base.gguf_file else {}),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise loading_error(f"the configuration of {name}", error, token) from error
    if getattr(found, "quantization_config", None):
        raise UsageError(
            f"the weights of {name} are quantized, and merging would round the update to what they can hold; pass the "
            "unquantized model with --model"
        )
    own = getattr(found, "dtype", None)
    return own if isinstance(own, torch.dtype) and own.is_floating_point else torch.float32


def merge(what: Mergeable, dtype: torch.dtype, token: str | None = None) -> Merged:
    """Load the base model in float32, merge the adapter into it, and hold the outputs against those before.

    Args:
        what: to merge.
        dtype: in which the result will be stored, for what it loses.
        token: to read private models with.

    Raises:
        UsageError: the adapter does not fit the model, leaves a part of it random, or the merged model would compute
            something else.
        RunError: network or disk fail.
    """
    base = load_base(what.base, what.head, token)
    random = [name for name in base.new_modules if not any(f".{name}." in tensor for tensor in what.names)]
    if random:
        raise UsageError(
            f"{what.base.model} has no weights for {', '.join(random)}, and the adapter has none either, so "
            "they would be random; pass --model with the model that the adapter was trained on"
        )
    model = _with_adapter(base.model, what, token).eval()
    before, change = _outputs(model), None
    if before is not None:
        with model.disable_adapter():
            plain = _outputs(model)
        change = None if plain is None else (before - plain).norm()
    modules, lost = _rounding(model, dtype)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except _REFUSALS as error:
        raise UsageError(f"the adapter {what.place} cannot be merged: {error}") from error
    _require_same(_outputs(merged), before, change)
    return Merged(merged, modules, lost)


def _with_adapter(base: nn.Module, what: Mergeable, token: str | None) -> PeftModel:
    """Return the model with the adapter, of which every tensor has found its place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", message="(?!.*missing adapter keys)")
            model = PeftModel.from_pretrained(base, str(what.place))
    except (OSError, KeyError, UserWarning, *_REFUSALS) as error:
        raise loading_error(f"the adapter {what.place} (for {what.base.model})", error, token) from error
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    left = sorted(name for name in what.names if name not in held and ".base_layer." not in name)
    if left:
        raise UsageError(f"{what.base.model} has no module for the adapter's {left[0]}; pass the right --model")
    return model


@torch.no_grad()
def _rounding(model: nn.Module, dtype: torch.dtype) -> tuple[int, float]:
    """Return how many modules are adapted, and what rounding them to `dtype` loses, as a share of the update."""
    count, lost, whole = 0, 0.0, 0.0
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        count += 1
        if dtype == torch.float32 or not hasattr(layer, "get_delta_weight"):
            continue
        weight = getattr(layer.get_base_layer(), "weight", None)
        if weight is None:
            continue
        for name in layer.active_adapters:
            update = layer.get_delta_weight(name).reshape(weight.shape)
            whole += update.square().sum().item()
            lost += ((weight + update).to(dtype).float() - weight - update).square().sum().item()
    return count, (lost / whole) ** 0.5 if whole else 0.0


@torch.no_grad()
def _outputs(model: Any) -> Tensor | None:
    """Return what the model computes of a few tokens, or of a gray picture; None if it takes neither."""
    config, wanted = model.config, getattr(model, "main_input_name", "input_ids")
    if isinstance(model, PeftModel):
        wanted = getattr(model.get_base_model(), "main_input_name", "input_ids")
    if wanted == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        inputs = {"pixel_values": torch.full((1, getattr(config, "num_channels", 3), height, width), 0.5)}
    elif wanted == "input_ids":
        ids = (torch.arange(_TOKENS) * 17 + 5)[None] % config.get_text_config().vocab_size
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.is_encoder_decoder:
            inputs["decoder_input_ids"] = ids
    else:
        return None
    out = model(**inputs)
    return next(value.float() for value in out.values() if isinstance(value, Tensor) and value.ndim > 1)


def _require_same(after: Tensor | None, before: Tensor | None, change: Tensor | None) -> None:
    """Raise if the merged model does not compute what the adapter did.

    Raises:
        UsageError: as with LoRA of a head that shares its weight with the embedding.
    """
    if after is None or before is None or change is None:
        return
    apart = (after - before).norm()
    if not apart <= _OF_CHANGE * change + _OF_OUTPUT * before.norm():
        raise UsageError(
            f"the merged model computes something else: its outputs are off by {apart / change:.2g} of what the "
            "adapter changes in them, as happens when an adapted layer shares its weight with another; use the adapter"
        )
