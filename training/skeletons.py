"""A saved adapter put into a model without weights, so that the functions for models serve files too.

Only the adapter's own tensors are allocated: every base layer is on the meta device. What kind of layer it is comes
from the base model's configuration, and its size from the file.
"""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, DeepLoraLayer
from training.adapter_files import AdapterFiles
from training.errors import UsageError

PREFIX = "base_model.model."
FACTORS = ("deep_lora_U", "deep_lora_core", "deep_lora_V")
AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}


def deep_lora_skeleton(files: AdapterFiles, base: nn.Module | None) -> PeftModel:
    """A model that holds a Deep LoRA adapter and nothing else.

    Args:
        files: the adapter.
        base: the base model on the meta device, for the kinds of its layers; None takes every layer as linear.

    Raises:
        UsageError: the tensors or the config do not make up a Deep LoRA adapter, or it adapts bare parameters.
    """
    modules = adapted_modules(files)
    skeleton = _tree({name: _layer(name, base, shapes) for name, shapes in modules.items()})
    try:
        config = _config(files.config, modules)
        with torch.device("meta"):
            model = peft.get_peft_model(skeleton, config, low_cpu_mem_usage=True)
        own = {f"{name}.default": tensor for name, tensor in files.tensors.items() if is_factor(name)}
        result = model.load_state_dict(own, strict=False, assign=True)
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        NotImplementedError,
        ArithmeticError,
    ) as error:
        raise UsageError(f"the adapter's tensors do not fit its config: {error}") from error
    held = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, tensor in held if tensor.is_meta and "deep_lora" in name]
    if left or result.unexpected_keys:
        raise UsageError(f"the adapter's tensors do not fit its config: {[*left, *result.unexpected_keys][:3]}")
    if files.config.get("ensure_weight_tying"):
        _tie(model, kinds_are_known=base is not None)
    return model


def _tie(model: PeftModel, kinds_are_known: bool) -> None:
    """Makes a head that was saved with an embedding's parameters borrow them again, and names it in the config."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, DeepLoraLayer)}
    tied = set()
    for name, head in layers.items():
        for embedding in [layer for layer in layers.values() if layer is not head and _borrowed(head, layer)]:
            if not kinds_are_known:
                raise UsageError(
                    "the adapter ties a head to an embedding, whose scale is not that of a linear layer; pass --model"
                )
            if isinstance(embedding.get_base_layer(), nn.Embedding):
                head.tied_to["default"] = embedding
                head.core_scale["default"] = embedding.core_scale["default"]
                tied.add(name.removeprefix(PREFIX))
    model.peft_config["default"].ensure_weight_tying = bool(tied)
    model.peft_config["default"].target_modules_to_tie = tied


def _borrowed(head: DeepLoraLayer, embedding: DeepLoraLayer) -> bool:
    """Whether they hold the same numbers, U and V exchanged."""
    parts = [("deep_lora_U", "deep_lora_V"), ("deep_lora_core", "deep_lora_core"), ("deep_lora_V", "deep_lora_U")]
    return all(torch.equal(getattr(head, own)["default"], getattr(embedding, its)["default"]) for own, its in parts)


def adapted_modules(files: AdapterFiles) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of U, core and V for each adapted module.

    Raises:
        UsageError: there are none, or one lacks a part or has parts that do not fit.
    """
    if files.config.get("target_parameters"):
        raise UsageError("the adapter adapts bare parameters; load it on its model and call deep_lora.save_as_lora")
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in files.tensors.items():
        path, _, last = name.rpartition(".")
        if last in FACTORS:
            modules.setdefault(path, {})[last] = tuple(tensor.shape)
    if not modules:
        raise UsageError("the file holds no Deep LoRA tensors (deep_lora_U, deep_lora_core, deep_lora_V)")
    for path, shapes in modules.items():
        U, core, V = (shapes.get(name, ()) for name in FACTORS)
        if not (len(U) == len(V) == 2 and len(core) == 3 and U[1] == V[1] == core[1] == core[2] and min(*U, *V) > 0):
            raise UsageError(
                f"the parts of module {path[:80]!r} do not fit: {shapes}; needed are "
                "U (out, r), core (n, r, r), V (in, r)"
            )
        if not path.startswith(PREFIX) or not all(part.isidentifier() or part.isdecimal() for part in path.split(".")):
            raise UsageError(f"{path[:80]!r} is no name of a module under {PREFIX}")
    return {path.removeprefix(PREFIX): shapes for path, shapes in modules.items()}


def is_factor(name: str) -> bool:
    """Whether a tensor belongs to the update, as opposed to a layer that was trained whole."""
    return name.rpartition(".")[2] in (*FACTORS, "deep_lora_start", "deep_lora_bound")


def load_meta_base(config: dict[str, Any], model: str | None, *, trust_remote_code: bool = False) -> nn.Module | None:
    """The base model without weights, from its configuration alone; None if that is not on this machine.

    Args:
        config: the adapter's, which names the base.
        model: another name for the base; it must be there.
        trust_remote_code: run code that the base's repository brings along.

    Raises:
        UsageError: the model that was passed cannot be built.
    """
    name = model or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    try:
        found = transformers.AutoConfig.from_pretrained(
            name, local_files_only=model is None, trust_remote_code=trust_remote_code
        )
        with torch.device("meta"):
            return _build(found, config, trust_remote_code)
    except Exception as error:  # whatever a foreign configuration leads to
        if model is None:
            return None
        raise UsageError(f"the base model {model} cannot be built from its configuration: {error}") from error


def _build(found: Any, config: dict[str, Any], trust_remote_code: bool) -> nn.Module:
    """A model of the task's class; without a task, of the class that was adapted, or else of the one that was saved."""
    task = AUTO_CLASSES.get(str(config.get("task_type")))
    mapping, saved = config.get("auto_mapping"), getattr(found, "architectures", None) or [None]
    adapted = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    for name in () if task else (adapted, saved[0]):
        kind = _model_class(name)
        own = None if kind is None else _config_for(kind, found)
        if kind is not None and own is not None:
            return kind._from_config(own)
    return getattr(transformers, task or "AutoModel").from_config(found, trust_remote_code=trust_remote_code)


def _model_class(name: object) -> type[transformers.PreTrainedModel] | None:
    """A model of transformers by its name, which nobody vouches for: anything else that is called so is none."""
    try:
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    except Exception:  # it needs what is not installed
        return None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _config_for(kind: type[transformers.PreTrainedModel], found: Any) -> Any:
    """The base's configuration, or the part of it that is for models of this kind; None if they do not belong to it."""
    parts = [found, *(getattr(found, name, None) for name in getattr(found, "sub_configs", ()))]
    wanted: Any = kind.config_class
    return next((part for part in parts if isinstance(wanted, type) and isinstance(part, wanted)), None)


def _layer(name: str, base: nn.Module | None, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    """The base layer without weights: the base model's own, or a linear one of the size that the file says.

    A model with a head holds the one without under a name, its prefix: the file may have been saved from either.
    """
    out_features, in_features = shapes["deep_lora_U"][0], shapes["deep_lora_V"][0]
    if base is None:
        return nn.Linear(in_features, out_features, device="meta")
    prefix = f"{getattr(base, 'base_model_prefix', '')}."
    for path in (name, name.removeprefix(prefix), prefix + name):
        try:
            return base.get_submodule(path)
        except AttributeError:
            continue
    raise UsageError(
        f"the base model, a {type(base).__name__}, has no module {name[:80]!r}; pass the right one with --model, or "
        "--assume_linear if all adapted layers are linear"
    )


def _tree(leaves: dict[str, nn.Module]) -> nn.Module:
    root = nn.Module()
    for path, leaf in leaves.items():
        node = root
        *parents, last = path.split(".")
        for part in parents:
            if part not in node._modules:
                node.add_module(part, nn.Module())
            node = node._modules[part]  # type: ignore[assignment]
        if last in node._modules or hasattr(node, last):
            raise UsageError(f"module {path[:80]!r} lies inside another adapted module, or has an impossible name")
        node.add_module(last, leaf)
    return root


def _config(fields: dict[str, Any], modules: dict[str, dict[str, tuple[int, ...]]]) -> DeepLoraConfig:
    """The config with the names, ranks and depths that the file has, so that nothing is allocated on its word."""
    known = DeepLoraConfig.__dataclass_fields__
    kept = {
        name: value for name, value in fields.items() if name in known and name not in ("peft_type", "auto_mapping")
    }
    variant = str(kept.get("variant", "compressed"))
    extra = 0 if variant == "compressed" else 2
    exact = {re.escape(name): shapes["deep_lora_core"] for name, shapes in modules.items()}
    kept |= {
        "task_type": None,
        "target_parameters": None,
        "base_model_name_or_path": None,
        "target_modules": list(modules),
        "exclude_modules": None,
        "modules_to_save": None,
        "trainable_token_indices": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "ensure_weight_tying": False,
        "bias": "none",
        "inference_mode": True,
        "rank_pattern": {name: core[1] for name, core in exact.items()},
        "depth_pattern": {name: core[0] + extra for name, core in exact.items()},
    }
    return DeepLoraConfig(**kept)


def foreign_tensors(files: AdapterFiles) -> dict[str, Tensor]:
    """What is saved beside the update: heads, biases, rows of embeddings."""
    return {name: tensor for name, tensor in files.tensors.items() if not is_factor(name)}
