"""How collapse progresses from layer to layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from collapse.metrics import separation_quotient
from collapse.statistics import ClassStatistics


@torch.no_grad()
def layerwise_collapse(
    model: nn.Module, batches: Iterable[tuple[Any, Int[Tensor, " n"]]], layers: Sequence[str], num_classes: int
) -> dict[str, float]:
    """Measure `D_l = tr(S_W) / tr(S_B)` of the output of each named layer, in one pass over the batches.

    Outputs are flattened to one row for each sample. In trained deep linear networks D_l falls geometrically with
    depth; `dmf.theory.log_linear_fit` fits the factor. The model runs in its current mode, so put it into evaluation
    mode first.

    Args:
        model: any module.
        batches: pairs of an input (a tensor, or a mapping of keyword arguments) and class indices.
        layers: names of submodules, in order of depth.
        num_classes: K.

    Raises:
        ValueError: without layers or batches, if a name is not a submodule, or a layer did not run.

    Source: Yaras et al., arXiv:2306.01154 (progressive collapse); Wang et al., arXiv:2311.02960.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    >>> for layer in model: _ = nn.init.eye_(layer.weight)
    >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
    >>> layerwise_collapse(model, [(x, torch.tensor([0, 0, 1, 1]))], ["0", "1"], num_classes=2)
    {'0': 0.25, '1': 0.25}
    """
    modules = _named(model, layers)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[name] = (output if isinstance(output, Tensor) else output[0]).detach().flatten(1)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    statistics: dict[str, ClassStatistics] = {}
    try:
        for inputs, labels in batches:
            outputs.clear()
            model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
            for name, rows in outputs.items():
                if name not in statistics:
                    statistics[name] = ClassStatistics(num_classes, rows.shape[1], within="trace", device=rows.device)
                statistics[name].update(rows, labels)
    finally:
        for handle in handles:
            handle.remove()
    if absent := [name for name in layers if name not in statistics]:
        raise ValueError(f"these layers gave no output: {absent}; were there batches, and does the model run them?")
    return {name: separation_quotient(statistics[name]) for name in layers}


def _named(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    modules = dict(model.named_modules())
    missing = [name for name in layers if name not in modules]
    if missing or not layers:
        raise ValueError(f"`layers` must name submodules of the model, got {list(layers)}; unknown: {missing}")
    return {name: modules[name] for name in layers}
