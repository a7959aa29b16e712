"""Export a model's adapter as a plain LoRA adapter: exact, cheap, and readable by every server that supports LoRA."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from deep_lora.config import DeepLoraConfig
from deep_lora.export.folders import check_alone, write_adapter
from deep_lora.export.target_names import (
    caught_besides,
    held_targets,
    plain_name,
    rank_patterns,
    shortened,
    with_tied_targets,
)
from deep_lora.export.tolerances import find_tolerance
from deep_lora.export.unwrapping import uncompiled, unwrapped
from deep_lora.functional import two_factors
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers, shared_places
from deep_lora.lora_fields import LORA_BIASES
from deep_lora.sharded import gathered
from deep_lora.weights.offload import whole_state
from dmf.linalg import FactorSVD, factor_svd

COPIED_FIELDS = (
    "task_type", "base_model_name_or_path", "revision", "inference_mode", "target_modules", "exclude_modules",
    "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern", "trainable_token_indices",
    "target_parameters", "ensure_weight_tying",
)  # fmt: skip


Ranks = Literal["uniform", "per_module"]


def to_lora(
    model: nn.Module,
    adapter_name: str = "default",
    tolerance: float | Literal["auto"] = 0.0,
    *,
    ranks: Ranks = "uniform",
    data: Iterable[Any] | None = None,
    bound: float = 0.01,
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return the adapter as a plain LoRA adapter with the same update in every module.

    With `dW = U M V^T`, QR of U = Q_u R_u and V = Q_v R_v, and the SVD `R_u M R_v^T = P S Q^T` of an r x r matrix:
    `B = Q_u P S^(1/2)`, `A = S^(1/2) Q^T Q_v^T`. No matrix of the size of the weight is decomposed.

    Args:
        model: a PEFT model (or a model with injected adapters), compiled or wrapped for several processes or not.
        adapter_name: the adapter to export.
        tolerance: singular values below this fraction of a module's largest are dropped, in [0, 1); 0 is exact. "auto"
            is the largest that keeps the outputs on `data` within `bound`.
        ranks: "uniform" pads every module with zeros to the largest rank that is kept, so that every loader reads the
            same update. "per_module" writes each module's own rank to `rank_pattern` and `alpha_pattern`: a smaller
            file, which PEFT and vLLM read, and SGLang does not.
        data: batches of inputs, for "auto": dictionaries, or what the model takes as its only argument.
        bound: for "auto": what the outputs may lose, as a share of what the adapter changes in them, in (0, 1).

    Returns:
        A `LoraConfig` with the rank r and `lora_alpha = r`, so that the scale is 1 in every module, and the state dict
        in PEFT's format. `target_modules` are plain names. Saved modules, trained biases and token rows are copied.

    Raises:
        ValueError: for an unknown adapter, a tolerance, bound or `ranks` out of range, "auto" without data, or an
            update that LoRA cannot hold (grouped convolutions) or that is not finite.

    >>> from peft import get_peft_model
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> config, state_dict = to_lora(model)
    >>> config.r, sorted(state_dict)  # a fresh update is zero and needs no rank; LoRA wants at least 1
    (1, ['base_model.model.0.lora_A.weight', 'base_model.model.0.lora_B.weight'])
    """
    if tolerance == "auto":
        tolerance = find_tolerance(unwrapped(model), _decompose, data, bound, adapter_name)
    config, state_dict, _ = _export(model, adapter_name, tolerance, ranks)
    return config, state_dict


def kept_ranks(model: nn.Module, adapter_name: str = "default", tolerance: float = 0.0) -> dict[str, int]:
    """Return the rank of each module's update: how many singular values exceed `tolerance` times its largest.

    >>> from peft import get_peft_model
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> kept_ranks(model)
    {'base_model.model.0': 0}
    """
    found = _decompose(unwrapped(model), adapter_name, tolerance)
    return {name: _kept(svd, tolerance) for name, (_, svd) in found.items()}


def save_as_lora(
    path: str | os.PathLike[str] | nn.Module,
    model: nn.Module | str | os.PathLike[str],
    adapter_name: str = "default",
    tolerance: float | Literal["auto"] = 0.0,
    *,
    ranks: Ranks = "uniform",
    data: Iterable[Any] | None = None,
    bound: float = 0.01,
) -> dict[str, int]:
    """Write `to_lora` as a directory that `PeftModel.from_pretrained` loads without this package.

    Config and weights appear under their final names only when both are complete; existing files are replaced. Path
    and model may come in either order.

    Returns:
        The rank kept in each module.

    Raises:
        ValueError: as `to_lora`.
        TypeError: the first two arguments are not a path and a model.
        NotADirectoryError: if `path` is a file.
        FileExistsError: if `path` has a Deep LoRA adapter in its subfolder, too.
    """
    if isinstance(path, nn.Module):
        path, model = model, path
    if not isinstance(model, nn.Module) or not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"save_as_lora needs a path and a model, got {type(path).__name__} and {type(model).__name__}; write "
            'save_as_lora("folder", model)'
        )
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; save_as_lora needs the name of a directory")
    check_alone(folder)
    if tolerance == "auto":
        tolerance = find_tolerance(unwrapped(model), _decompose, data, bound, adapter_name)
    config, state_dict, kept = _export(model, adapter_name, tolerance, ranks)
    config.inference_mode = True
    _warn_of_extras(config, state_dict)
    write_adapter(folder, config.to_dict(), state_dict)
    return kept


@torch.no_grad()
def _export(
    model: nn.Module, adapter_name: str, tolerance: float, ranks: Ranks
) -> tuple[LoraConfig, dict[str, Tensor], dict[str, int]]:
    """What `to_lora` returns, and the rank kept in each module."""
    if ranks not in ("uniform", "per_module"):
        raise ValueError(f"`ranks` must be 'uniform' or 'per_module', got {ranks!r}")
    model = unwrapped(model)
    decompositions = _decompose(model, adapter_name, tolerance)
    if not hasattr(model, "peft_config"):
        raise ValueError(
            f"a {type(model).__name__} has no `peft_config`; pass the PEFT model inside it (for a "
            "SentenceTransformer, `model[0].model`)"
        )
    kept = {name: _kept(svd, tolerance) for name, (_, svd) in decompositions.items()}
    rank = max([1, *kept.values()])
    own = {name: max(1, kept[name]) for name, (layer, _) in decompositions.items() if _has_own_rank(layer)}
    written = dict.fromkeys(kept, rank) | (own if ranks == "per_module" else {})
    state_dict = {
        uncompiled(key): gathered(tensor)
        for key, tensor in get_peft_model_state_dict(model, whole_state(model), adapter_name).items()
        if not any(f".{own}" in f".{key}" for own in DeepLoraLayer.saved_names)
    }
    for name, (layer, svd) in decompositions.items():
        # rounding A and B to half precision would change the update, and LoRA is trained in float32 anyway
        dtype = torch.promote_types(layer.deep_lora_U[adapter_name].dtype, torch.float32)
        B, A = _padded_factors(svd, kept[name], written[name])
        state_dict |= {f"{name}.{key}": t.to(dtype).contiguous() for key, t in layer.lora_tensors(B, A).items()}
    configs: Any = model.peft_config
    config = _lora_config(configs[adapter_name], rank)
    _name_targets_(config, model, {name: layer for name, (layer, _) in decompositions.items()})
    config.target_modules = with_tied_targets(
        config.target_modules, getattr(configs[adapter_name], "target_modules_to_tie", None)
    )
    config.rank_pattern = rank_patterns({plain_name(name): own for name, own in written.items()}, rank)
    config.alpha_pattern = dict(config.rank_pattern)  # so that the scale, alpha / r, is 1 everywhere
    if config.task_type is None and isinstance(model, PeftModel):  # else AutoPeftModel would not know the base's class
        base = type(model.get_base_model())
        config.auto_mapping = {"base_model_class": base.__name__, "parent_library": base.__module__}
    return config, state_dict, kept


def _warn_of_extras(config: LoraConfig, state_dict: dict[str, Tensor]) -> None:
    """Name what servers of language models refuse or leave out, before it is saved."""
    extras = sorted(plain_name(name) for name in state_dict if ".lora_" not in f".{name}")
    if config.task_type == "CAUSAL_LM" and extras:
        warnings.warn(
            f"beside LoRA the adapter holds {', '.join(extras[:3])}{', ...' if len(extras) > 3 else ''}; PEFT and "
            "transformers load that, vLLM, SGLang, TGI and llama.cpp do not: for them merge the adapter, or train "
            "without `modules_to_save`, `bias` and `trainable_token_indices`",
            stacklevel=3,
        )


def _has_own_rank(layer: DeepLoraLayer) -> bool:
    """Tell whether LoRA can have another rank there: it has one for all bare parameters, and for what is tied."""
    return not layer.bare_parameter and not layer.tied_to


def _name_targets_(config: LoraConfig, model: Any, layers: dict[str, DeepLoraLayer]) -> None:
    """Set what the configuration adapts to plain names of what was adapted."""
    own = {name: layer.bare_parameter for name, layer in layers.items()}
    modules = [name for name in own if not own[name] and not any(name.startswith(f"{other}.") for other in own)]
    targets = held_targets(config.target_modules, modules)
    if isinstance(config.target_modules, str) and targets:
        inside = tuple(f"{name}." for name in targets)
        others = {plain_name(name) for name, _ in model.named_modules()} - targets
        others = {name for name in others if name and not name.startswith(inside)}
        targets = shortened(targets, others)
        config.exclude_modules = caught_besides(targets, others) or None
    config.target_modules = targets
    parameters = held_targets(config.target_parameters, [f"{name}.{own[name]}" for name in own if own[name]])
    config.target_parameters = None if parameters is None else sorted(parameters)


def _decompose(model: nn.Module, adapter_name: str, tolerance: float) -> dict[str, tuple[DeepLoraLayer, FactorSVD]]:
    """Singular value decomposition of every module's update, in float64."""
    if not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be a fraction of the largest singular value, in [0, 1), got {tolerance}")
    found: dict[str, tuple[DeepLoraLayer, FactorSVD]] = {}
    shared = shared_places(model)
    for name, layer in adapted_layers(model, adapter_name).items():
        _check_exportable(name, layer, several_places=id(layer) in shared)
        svd = _layer_svd(layer, adapter_name)
        if not torch.isfinite(svd.values).all():
            raise ValueError(f"the adapter {adapter_name!r} is not finite in module {name}; nothing was exported")
        found[uncompiled(name)] = (layer, svd)
    _warn_of_read_weights([name for name, (layer, _) in found.items() if layer.weight_is_read])
    return found


def _warn_of_read_weights(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"the model reads the weights of {len(names)} modules without calling them, {names[0]} among them: PEFT's "
            "LoRA has an effect there only after `merge_and_unload`",
            stacklevel=5,
        )


def _check_exportable(name: str, layer: DeepLoraLayer, *, several_places: bool) -> None:
    found = layer.export_obstacles() + ["several places in the model"] * several_places
    if found:
        kind = type(layer.get_base_layer()).__name__
        raise ValueError(
            f"module {name} is a {kind} with {' and '.join(found)}, which PEFT's LoRA computes differently, so the "
            "update cannot be exported; merge the adapter with `merge_and_unload`, or do not target this module"
        )


@torch.no_grad()
def _layer_svd(layer: DeepLoraLayer, adapter_name: str) -> FactorSVD:
    U, folded, V = layer.update(adapter_name).factors()
    tied = layer.exchanges(adapter_name)  # the arithmetic of the embedding it is tied to, so that both agree exactly
    left, right = two_factors((V, folded.mT, U) if tied else (U, folded, V))
    if not torch.isfinite(left).all() or not torch.isfinite(right).all():
        nan = torch.full((1,), float("nan"))
        return FactorSVD(nan, nan, nan)
    svd = factor_svd(left, right)
    return FactorSVD(svd.right, svd.values, svd.left) if tied else svd


def _kept(svd: FactorSVD, tolerance: float) -> int:
    """Number of singular values above the tolerance (for experts the largest over them)."""
    values = svd.values
    if values.numel() == 0:  # of a layer without inputs or outputs
        return 0
    threshold = values.amax(dim=-1, keepdim=True) * tolerance
    return int(((values > threshold) | ((values == threshold) & (threshold > 0))).sum(-1).amax())


def _padded_factors(svd: FactorSVD, kept: int, rank: int) -> tuple[Tensor, Tensor]:
    """`B` (..., out, rank) and `A` (..., rank, in) with `B A` the truncated update; padding is zero."""
    root = svd.values[..., :kept].sqrt()
    B = svd.left[..., :kept] * root[..., None, :]
    A = svd.right[..., :kept].mT * root[..., :, None]
    missing = rank - kept
    return nn.functional.pad(B, (0, missing)), nn.functional.pad(A, (0, 0, 0, missing))


def _lora_config(config: DeepLoraConfig, rank: int) -> LoraConfig:
    fields = {key: copy.deepcopy(getattr(config, key)) for key in COPIED_FIELDS} | {"bias": LORA_BIASES[config.bias]}
    return LoraConfig(r=rank, lora_alpha=rank, lora_dropout=config.deep_lora_dropout, **fields)
