"""What a saved adapter has learned: the singular values of each module's update, from its files alone."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deep_lora.export.base_kinds import UNKNOWN_BASE, load_meta_base
from deep_lora.export.folders import AdapterFiles, read_adapter
from deep_lora.export.scales import lora_scale
from deep_lora.export.skeletons import deep_lora_skeleton
from deep_lora.export.target_names import PREFIX
from deep_lora.files import AdapterFileError
from deep_lora.functional import two_factors
from deep_lora.layers.finding import adapted_layers
from deep_lora.weights.saved import SETTINGS
from dmf.linalg import effective_rank, factor_svd

_TAKEN_AS_LINEAR = (
    f"{UNKNOWN_BASE}, so every layer is taken as linear; the values of embeddings are of another scale: pass "
    "`base_model` if there are some, or `assume_linear=True`"
)


@dataclass(frozen=True)
class ModuleReport:
    """One module: the shape and rank of its update, and the update's singular values, largest first.

    The effective rank is exp of the entropy of the normalized singular values (Roy and Vetterli, 2007).
    """

    module: str
    out_features: int
    in_features: int
    rank: int
    parameters: int
    effective_rank: float
    singular_values: list[float]


@dataclass(frozen=True)
class AdapterReport:
    """A saved adapter: its method, the numbers and bytes in its file, and each adapted module."""

    peft_type: str
    parameters: int
    bytes: int
    modules: list[ModuleReport]


def inspect_adapter(
    path: str | os.PathLike[str], *, base_model: str | None = None, assume_linear: bool = False
) -> AdapterReport:
    """Find the singular values of the update `dW` in each module of a saved Deep LoRA or LoRA adapter.

    The base model's weights are not needed. For a Deep LoRA adapter its configuration is, since the updates of
    embeddings have another scale; if it is not found every layer is taken as linear, with a warning. Nothing in the
    folder is executed.

    Args:
        path: folder of the adapter.
        base_model: name or folder of the base model; the one in the adapter's config if None.
        assume_linear: take every adapted layer as linear, without looking for the base model.

    Raises:
        AdapterFileError: a `ValueError`: the folder does not hold a sound adapter of one of the two methods, it adapts
            bare parameters, or its numbers are not finite.

    >>> import tempfile
    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = nn.Sequential(nn.Linear(4, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     get_peft_model(model, DeepLoraConfig(r=2, target_modules=["0"])).save_pretrained(folder)
    ...     report = inspect_adapter(folder, assume_linear=True)
    >>> report.peft_type, [(one.module, one.out_features, one.in_features, one.rank) for one in report.modules]
    ('DEEP_LORA', [('0', 3, 4, 2)])
    """
    files = read_adapter(Path(path))
    if files.peft_type == "DEEP_LORA":
        base = None if assume_linear else load_meta_base(files.config, base_model)
        if base is None and not assume_linear:
            warnings.warn(_TAKEN_AS_LINEAR, stacklevel=2)
        factors = _deep_lora_factors(files, base)
    elif files.peft_type == "LORA":
        factors = _lora_factors(files)
    else:
        raise AdapterFileError(f"the adapter is a {files.peft_type[:40]}; only DEEP_LORA and LORA can be inspected")
    if not factors:
        raise AdapterFileError("no adapted module was found in the file")
    return AdapterReport(
        peft_type=files.peft_type,
        parameters=sum(t.numel() for name, t in files.tensors.items() if not name.endswith(f".{SETTINGS}")),
        bytes=files.bytes,
        modules=[_report(name, left, right, count) for name, (left, right, count) in sorted(factors.items())],
    )


def _deep_lora_factors(files: AdapterFiles, base: nn.Module | None) -> dict[str, tuple[Tensor, Tensor, int]]:
    found = {}
    for name, layer in adapted_layers(deep_lora_skeleton(files, base)).items():
        count = sum(getattr(layer, part)["default"].numel() for part in layer.adapter_layer_names)
        found[name.removeprefix(PREFIX)] = (*two_factors(layer.update("default").factors()), count)
    return found


def _lora_factors(files: AdapterFiles) -> dict[str, tuple[Tensor, Tensor, int]]:
    if files.config.get("target_parameters"):
        raise AdapterFileError(
            "the adapter adapts bare parameters (target_parameters), whose file holds the updates of all experts in "
            "one; load it on its model and look at get_delta_weight of its layers"
        )
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in files.tensors.items():
        for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
            if name.endswith((f".{part}.weight", f".{part}")):
                pairs.setdefault(name.split(f".{part}")[0], {})[part[-1]] = tensor
    found = {}
    for path, pair in pairs.items():
        name = path.removeprefix(PREFIX)
        A, B = pair.get("A"), pair.get("B")
        if A is None or B is None or min(A.ndim, B.ndim) < 2 or B.shape[1] != A.shape[0] or not A.numel() * B.numel():
            shapes = {key: tuple(tensor.shape) for key, tensor in pair.items()}
            raise AdapterFileError(
                f"the parts of module {name[:80]!r} do not fit each other: {shapes}; expected A (r, in), B (out, r)"
            )
        scale = lora_scale(files.config, name, A.shape[0])
        found[name] = (scale * B.double().flatten(1), A.double().flatten(1).mT, A.numel() + B.numel())
    return found


def _report(name: str, left: Tensor, right: Tensor, parameters: int) -> ModuleReport:
    _check_finite(name, left, right)
    try:
        values = factor_svd(left, right).values
    except RuntimeError as error:
        raise AdapterFileError(f"the singular values of module {name[:80]!r} cannot be computed: {error}") from error
    _check_finite(name, values)
    return ModuleReport(
        module=name,
        out_features=left.shape[0],
        in_features=right.shape[0],
        rank=left.shape[1],
        parameters=parameters,
        effective_rank=float(effective_rank(values)),
        singular_values=[float(value) for value in values],
    )


def _check_finite(name: str, *tensors: Tensor) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise AdapterFileError(f"the adapter is not finite in module {name[:80]!r}; it cannot be used")
