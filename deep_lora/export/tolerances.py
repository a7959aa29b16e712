"""How much of the small singular values an export may drop, measured on the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.update import Update
from dmf.linalg import FactorSVD

Decompositions = dict[str, tuple[DeepLoraLayer, FactorSVD]]
_NEEDED = "`tolerance='auto'` needs `data`, a list of batches that the model takes, such as what its DataLoader gives"


@torch.no_grad()
def find_tolerance(
    model: nn.Module,
    decompose: Callable[[nn.Module, str, float], Decompositions],
    data: Iterable[Any] | None,
    bound: float,
    adapter_name: str,
) -> float:
    """Find the largest tolerance whose truncated update keeps the outputs on the data within the bound.

    The outputs are logits, or the first thing that the model returns; with `f` of the whole update, `f_k` of the
    truncated one and `f_0` of none, `||f_k - f|| <= bound ||f - f_0||` over all batches. The tolerance is found
    by bisection over the gaps between singular values, which assumes that the error grows with it.

    Args:
        model: holds the adapter.
        decompose: model, name of the adapter, tolerance -> the singular value decomposition of each update.
        data: batches.
        bound: in (0, 1).
        adapter_name: the adapter.

    Raises:
        TypeError: `data` holds no batches.
        ValueError: `data` is missing or empty, the bound is out of range, or the adapter changes no output.
    """
    if data is not None and not isinstance(data, Iterable):
        raise TypeError(f"{_NEEDED}; got {type(data).__name__}")
    batches = [] if data is None else list(data)
    if not batches:
        raise ValueError(f"{_NEEDED}; got {'none' if data is None else 'no batch'}")
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < 1:
        raise ValueError(
            f"`bound` must be in (0, 1), a share of what the adapter changes in the outputs, got {bound!r}"
        )
    found = decompose(model, adapter_name, 0.0)
    was_training = model.training
    model.eval()
    try:
        whole = _outputs(model, batches)
        with _truncated(model, found, adapter_name, 1.0):
            changed = _distance(_outputs(model, batches), whole)
        if changed == 0:
            raise ValueError("the adapter changes no output on `data`, so no tolerance can be measured on them")
        candidates = _between([svd.values for _, svd in found.values()])
        low, high = 0, len(candidates)  # the first candidate is 0, which is exact
        while high - low > 1:
            middle = (low + high) // 2
            with _truncated(model, found, adapter_name, candidates[middle]):
                good = _distance(_outputs(model, batches), whole) <= bound * changed
            low, high = (middle, high) if good else (low, middle)
        return candidates[low]
    finally:
        model.train(was_training)


def _between(values: Iterable[Tensor]) -> list[float]:
    """Return 0 and the geometric means of neighbors among all singular values, each as a share of its largest.

    >>> _between([torch.tensor([4.0, 1.0]), torch.tensor([0.0, 0.0])])
    [0.0, 0.5]
    """
    shares: set[float] = set()
    for one in values:
        largest = one.amax(dim=-1, keepdim=True)
        shares |= set((one / torch.where(largest > 0, largest, 1.0)).flatten().tolist())
    steps = sorted(share for share in shares if share > 0)
    return [0.0, *((low * high) ** 0.5 for low, high in zip(steps, steps[1:], strict=False))]


@contextmanager
def _truncated(model: nn.Module, found: Decompositions, adapter_name: str, tolerance: float) -> Iterator[None]:
    """Let every layer compute only with the singular values above the tolerance; a tolerance of 1 leaves nothing."""
    layers = list(adapted_layers(model, adapter_name).values())
    updates = {}
    for layer, svd in found.values():
        keep = (svd.values > tolerance * svd.values.amax(dim=-1, keepdim=True)).to(svd.values)
        like = layer.deep_lora_U[adapter_name]
        U, V = svd.left * (svd.values * keep)[..., None, :], svd.right
        eye = torch.eye(U.shape[-1]).expand(1, *U.shape[:-2], -1, -1)
        updates[id(layer)] = Update(U.to(like), eye.to(like), V.to(like), core_scale=1.0)
    try:
        for layer in layers:
            own = layer.update

            def update(name: str, own: Any = own, layer: Any = layer) -> Update:
                return updates[id(layer)] if name == adapter_name else own(name)

            layer.update = update  # type: ignore[assignment, method-assign]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("update", None)


def _outputs(model: nn.Module, batches: list[Any]) -> list[Tensor]:
    return [_tensor_of(_call(model, batch)).detach().double().cpu() for batch in batches]


def _call(model: nn.Module, batch: Any) -> Any:
    if not isinstance(batch, Mapping | Tensor):
        raise ValueError(f"{_NEEDED}; each must be a dictionary or a tensor, got {type(batch).__name__}")
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    batch = send_to_device(batch, device)
    return model(batch) if isinstance(batch, Tensor) else model(**batch)


def _tensor_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    return logits if logits is not None else next(iter(output.values() if isinstance(output, Mapping) else output))


def _distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    return float(sum((a - b).square().sum() for a, b in zip(found, wanted, strict=True)) ** 0.5)
