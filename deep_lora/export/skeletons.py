"""A saved adapter put into a model without weights, so that the functions for models serve files too.

Only the adapter's own tensors are allocated: every base layer is on the meta device. What kind of layer it is comes
from the base model's configuration, and its size from the file.
"""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
from peft import PeftModel
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.export.base_kinds import base_layer
from deep_lora.export.folders import AdapterFiles
from deep_lora.export.target_names import PREFIX
from deep_lora.files import FACTOR_NAMES, AdapterFileError, Shapes, factors_by_module
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.weights.saved import SETTINGS, check_settings, held_settings, saved_scales


def deep_lora_skeleton(files: AdapterFiles, base: nn.Module | None) -> PeftModel:
    """Build a model that holds a Deep LoRA adapter and nothing else.

    Args:
        files: the adapter.
        base: the base model on the meta device, for the kinds of its layers; None takes every layer as linear.

    Raises:
        AdapterFileError: the tensors or the config do not make up a Deep LoRA adapter, or it adapts bare parameters.
    """
    modules = adapted_modules(files)
    skeleton = _tree({name: _layer(name, base, shapes) for name, shapes in modules.items()})
    try:
        config = _config(files.config, modules)
        with torch.device("meta"):
            model = peft.get_peft_model(skeleton, config, low_cpu_mem_usage=True)
        settings = {name: files.tensors[name] for name in files.tensors if name.endswith(f".{SETTINGS}")}
        factors = {name: tensor for name, tensor in files.tensors.items() if is_own(name) and name not in settings}
        own = {f"{name}.default": tensor for name, tensor in factors.items()}
        for name, layer in adapted_layers(model).items():  # what was saved is compared below, when heads are tied
            own[f"{name}.{SETTINGS}.default"] = held_settings(layer, "default")
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
        raise AdapterFileError(f"the adapter's tensors do not fit its config: {error}") from error
    held = [*model.named_parameters(), *model.named_buffers()]
    left = [name for name, tensor in held if tensor.is_meta and "deep_lora" in name]
    if left or result.unexpected_keys:
        raise AdapterFileError(f"the adapter's tensors do not fit its config: {[*left, *result.unexpected_keys][:3]}")
    if files.config.get("ensure_weight_tying"):
        _tie(model, kinds_are_known=base is not None)
    for name, layer in adapted_layers(model).items():
        saved = settings.get(f"{name}.{SETTINGS}")
        if saved is not None and base is None:  # its kind is a guess, the scales that were saved are not
            layer.core_scale["default"], layer.outer_scale["default"] = saved_scales(saved)
        if saved is not None:
            check_settings(layer, "default", saved)
    return model


def _tie(model: PeftModel, kinds_are_known: bool) -> None:
    """Tie a head that was saved with an embedding's parameters to it again, and name it in the config."""
    layers = adapted_layers(model)
    tied = set()
    for name, head in layers.items():
        for embedding in [layer for layer in layers.values() if layer is not head and _is_shared(head, layer)]:
            if not kinds_are_known:
                raise AdapterFileError(
                    "the adapter ties a head to an embedding, whose scale is not that of a linear layer; pass "
                    "`base_model`"
                )
            if isinstance(embedding.get_base_layer(), nn.Embedding):
                head.tied_to["default"] = embedding
                head.core_scale["default"] = embedding.core_scale["default"]
                head.outer_scale["default"] = embedding.outer_scale["default"]
                tied.add(name.removeprefix(PREFIX))
    model.peft_config["default"].ensure_weight_tying = bool(tied)
    model.peft_config["default"].target_modules_to_tie = tied


def _is_shared(head: DeepLoraLayer, embedding: DeepLoraLayer) -> bool:
    """Whether they hold the same numbers, U and V exchanged."""
    parts = [("deep_lora_U", "deep_lora_V"), ("deep_lora_core", "deep_lora_core"), ("deep_lora_V", "deep_lora_U")]
    return all(torch.equal(getattr(head, own)["default"], getattr(embedding, its)["default"]) for own, its in parts)


def adapted_modules(files: AdapterFiles) -> dict[str, Shapes]:
    """Return the shapes of U, the cores and V for each adapted module.

    Raises:
        AdapterFileError: there are none, or one lacks a part or has parts that do not fit.
    """
    if files.config.get("target_parameters"):
        raise AdapterFileError(
            "the adapter adapts bare parameters (target_parameters); load it on its model and call "
            "deep_lora.save_as_lora"
        )
    modules = factors_by_module({name: tuple(tensor.shape) for name, tensor in files.tensors.items()})
    if not modules:
        raise AdapterFileError("no Deep LoRA tensors were found in the file (deep_lora_U, deep_lora_core, deep_lora_V)")
    for path, shapes in modules.items():
        U, core, V = (shapes.get(name, ()) for name in FACTOR_NAMES)
        if not (len(U) == len(V) == 2 and len(core) == 3 and U[1] == V[1] == core[1] == core[2] and min(*U, *V) > 0):
            raise AdapterFileError(
                f"the parts of module {path[:80]!r} do not fit each other: {shapes}; expected "
                "U (out, r), core (n, r, r), V (in, r)"
            )
        if not path.startswith(PREFIX) or not all(part.isidentifier() or part.isdecimal() for part in path.split(".")):
            raise AdapterFileError(f"{path[:80]!r} is not the name of a module under {PREFIX}")
    return {path.removeprefix(PREFIX): shapes for path, shapes in modules.items()}


def is_own(name: str) -> bool:
    """Tell whether a tensor belongs to the update, as opposed to a layer that was trained whole."""
    return name.rpartition(".")[2] in DeepLoraLayer.saved_names


def _layer(name: str, base: nn.Module | None, shapes: Shapes) -> nn.Module:
    """The base layer without weights: the base model's own, or a linear one of the size that the file says."""
    if base is not None:
        return base_layer(base, name)
    return nn.Linear(shapes["deep_lora_V"][0], shapes["deep_lora_U"][0], device="meta")


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
            raise AdapterFileError(
                f"module {path[:80]!r} lies inside another adapted module, or has an impossible name"
            )
        node.add_module(last, leaf)
    return root


def _config(fields: dict[str, Any], modules: dict[str, Shapes]) -> DeepLoraConfig:
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
    """Return what is saved beside the update: heads, biases, rows of embeddings."""
    return {name: tensor for name, tensor in files.tensors.items() if not is_own(name)}
