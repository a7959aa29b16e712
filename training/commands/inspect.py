"""`deep-lora inspect`: effective rank, sizes and spectra of an adapter, module by module."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from deep_lora import DeepLoraLayer
from deep_lora.functional import two_factors
from dmf import effective_rank, factor_svd
from training.adapter_files import AdapterFiles, read_adapter
from training.errors import UsageError
from training.results.report import write_json
from training.settings.common import option
from training.settings.parsing import parse
from training.skeletons import PREFIX, deep_lora_skeleton, load_meta_base

DESCRIPTION = """Shows what an adapter has learned: for each module the singular values of its update.

  deep-lora inspect --adapter runs/reviews/adapter
  deep-lora inspect --adapter runs/reviews/adapter --output_dir runs/reviews/spectra

Deep LoRA and LoRA adapters; the base model's weights are not needed. With --output_dir also inspection.json and
spectra.png. The effective rank is exp of the entropy of the normalised singular values (Roy and Vetterli, 2007)."""


_UNKNOWN = (
    "the base model's configuration is not on this machine, or is none of transformers, so every layer is taken as "
    "linear; the values of embeddings are of another scale: pass --model if there are some, or --assume_linear"
)


@dataclass
class InspectArguments:
    """What is looked at."""

    adapter: str | None = option(None, "Folder of the saved adapter.")
    model: str | None = option(None, "Base model, for the kinds of its layers; the one in the config if unset.")
    assume_linear: bool = option(False, "Take every adapted layer as linear, where the base model does not fit.")
    output_dir: str | None = option(None, "Folder for inspection.json and spectra.png; nothing is written if unset.")


@dataclass(frozen=True)
class ModuleReport:
    """One module: the shape and rank of its update, and the update's singular values, largest first."""

    module: str
    out_features: int
    in_features: int
    rank: int
    parameters: int
    effective_rank: float
    singular_values: list[float]


def main(words: Sequence[str]) -> int:
    """Runs the command; the exit status."""
    (arguments,) = parse((InspectArguments,), words, command="inspect", description=DESCRIPTION)
    if not arguments.adapter:
        raise UsageError("inspect needs --adapter, the folder of a saved adapter")
    files = read_adapter(Path(arguments.adapter))
    modules = inspect_adapter(files, arguments.model, arguments.assume_linear)
    print(table(modules, files))
    if arguments.output_dir:
        folder = Path(arguments.output_dir)
        content = {
            "peft_type": files.config["peft_type"],
            "bytes": files.bytes,
            "modules": [asdict(m) for m in modules],
        }
        write_json(folder / "inspection.json", content)
        draw(folder / "spectra.png", modules)
        print(f"written to {folder}: inspection.json, spectra.png")
    return 0


def inspect_adapter(files: AdapterFiles, model: str | None = None, assume_linear: bool = False) -> list[ModuleReport]:
    """The report of each module of a Deep LoRA or LoRA adapter.

    Args:
        files: the adapter.
        model: the base model of a Deep LoRA adapter; the one in its config if None.
        assume_linear: take every layer as linear; otherwise so only where no base is found, with a warning.

    Raises:
        UsageError: it is another kind of adapter, its parts do not fit, they adapt bare parameters, or its numbers are
            not finite.
    """
    kind = files.config["peft_type"].upper()
    if kind == "DEEP_LORA":
        base = None if assume_linear else load_meta_base(files.config, model)
        if base is None and not assume_linear:
            warnings.warn(_UNKNOWN, stacklevel=2)
        factors = _deep_lora_factors(files, base)
    elif kind == "LORA":
        factors = _lora_factors(files)
    else:
        raise UsageError(f"inspect knows DEEP_LORA and LORA adapters, not {kind[:40]}")
    if not factors:
        raise UsageError("the file holds no adapted module")
    return [_report(name, left, right, count) for name, (left, right, count) in sorted(factors.items())]


def table(modules: list[ModuleReport], files: AdapterFiles) -> str:
    """One row for each module, and the totals."""
    width = max(len("module"), *(len(one.module) for one in modules))
    rows = [f"{'module':<{width}}  {'out x in':>13}  rank  effective  largest     smallest"]
    for one in modules:
        size = f"{one.out_features} x {one.in_features}"
        largest, smallest = one.singular_values[0], one.singular_values[-1]
        rows.append(
            f"{one.module:<{width}}  {size:>13}  {one.rank:>4}  {one.effective_rank:>9.2f}  {largest:<10.3e}"
            f"  {smallest:.3e}"
        )
    mean = sum(one.effective_rank for one in modules) / len(modules)
    count = sum(tensor.numel() for tensor in files.tensors.values())
    rows.append(
        f"{len(modules)} modules, mean effective rank {mean:.2f}; {count:,} numbers, {files.bytes / 1024:,.0f} KiB"
    )
    return "\n".join(rows)


def draw(path: Path, modules: list[ModuleReport]) -> None:
    """The singular values of every module, and their effective ranks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (spectra, ranks) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for one in modules:
        positive = [value for value in one.singular_values if value > 0]
        spectra.plot(range(1, len(positive) + 1), positive, linewidth=0.9, alpha=0.6)
    spectra.set(title="singular values of the update", xlabel="index", ylabel="value")
    if any(one.singular_values[0] > 0 for one in modules):
        spectra.set_yscale("log")
    ranks.bar(range(len(modules)), [one.effective_rank for one in modules])
    ranks.set(title="effective rank", xlabel="module, in the order of the table")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _deep_lora_factors(files: AdapterFiles, base: nn.Module | None) -> dict[str, tuple[Tensor, Tensor, int]]:
    skeleton = deep_lora_skeleton(files, base)
    found = {}
    for name, layer in skeleton.named_modules():
        if isinstance(layer, DeepLoraLayer):
            count = sum(getattr(layer, part)["default"].numel() for part in layer.adapter_layer_names)
            found[name.removeprefix(PREFIX)] = (*two_factors(layer.update("default").factors()), count)
    return found


def _lora_factors(files: AdapterFiles) -> dict[str, tuple[Tensor, Tensor, int]]:
    if files.config.get("target_parameters"):
        raise UsageError(
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
            raise UsageError(
                f"the parts of module {name[:80]!r} do not fit: {shapes}; needed are A (r, in), B (out, r)"
            )
        scale = _lora_scale(files.config, name, A.shape[0])
        found[name] = (scale * B.double().flatten(1), A.double().flatten(1).mT, A.numel() + B.numel())
    return found


def _lora_scale(config: dict[str, Any], name: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    try:
        alpha = patterns.get(get_pattern_key(patterns.keys(), name), config.get("lora_alpha", rank))
        return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)
    except Exception as error:  # a foreign config may hold anything
        raise UsageError(f"the config's lora_alpha or alpha_pattern is no number for module {name[:80]!r}") from error


def _report(name: str, left: Tensor, right: Tensor, parameters: int) -> ModuleReport:
    if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
        raise UsageError(f"the adapter is not finite in module {name[:80]!r}; it cannot be used")
    try:
        values = factor_svd(left, right).values
    except RuntimeError as error:
        raise UsageError(f"the update of module {name[:80]!r} has no singular values: {error}") from error
    if not torch.isfinite(values).all():
        raise UsageError(f"the adapter is not finite in module {name[:80]!r}; it cannot be used")
    return ModuleReport(
        module=name,
        out_features=left.shape[0],
        in_features=right.shape[0],
        rank=left.shape[1],
        parameters=parameters,
        effective_rank=float(effective_rank(values)),
        singular_values=[float(value) for value in values],
    )
