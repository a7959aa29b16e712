"""`initialize_subspaces_`: set U and V of a compressed adapter from the gradient of the user's own loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.first_backward import unwatched
from deep_lora.sharded import write_
from deep_lora.subspaces.compressed_layers import layers_to_initialize, trained_modules
from deep_lora.subspaces.distributed import sum_over_ranks
from deep_lora.subspaces.probe import Watched, probes, watched_layers
from deep_lora.subspaces.restoring import dropout_off, gradients_put_aside
from deep_lora.subspaces.sketch import GradientSketch, make_sketches
from dmf.linalg import FactorSVD
from dmf.subspaces import OrthogonalMap, compressed_subspaces, one_sided_subspaces

EXACT_BYTES = 2**29
Sides = Literal["both", "right"]


class Side(NamedTuple):
    """How U and V come from singular vectors: one pair of those gives `columns` of each, which `subspaces` writes."""

    columns: int
    subspaces: Callable[[FactorSVD, OrthogonalMap], tuple[Tensor, Tensor]]

    def vectors(self, rank: int) -> int:
        """Return how many singular vectors an adapter of this rank needs."""
        return rank // self.columns


SIDES: dict[str, Side] = {
    "both": Side(2, lambda svd, q: compressed_subspaces(svd.left, svd.right, q, q.transpose)),
    "right": Side(1, lambda svd, q: one_sided_subspaces(svd.right, q)),
}


@dataclass(frozen=True)
class InitializationReport:
    """Names of the modules whose subspace was set, and of those that kept their random start."""

    initialized: list[str] = field(default_factory=list)
    kept_random: list[str] = field(default_factory=list)


def initialize_subspaces_(
    model: nn.Module,
    closure: Callable[[], Any],
    adapter_name: str = "default",
    seed: int = 0,
    *,
    exact_bytes: int = EXACT_BYTES,
    sides: Sides = "right",
) -> InitializationReport:
    """Set U and V of every compressed layer from the gradient that `closure` produces, in place.

    With `G = dL/d(dW)` summed over all calls in the closure, B its top r right singular vectors, and Q a seeded
    implicit orthogonal map: `V = B, U = Q V`. The paper's own (`sides="both"`) takes r/2 singular vectors A, B from
    either side: `V = orth([B, Q^T A]), U = Q V` if out <= in, else `U = orth([A, Q B]), V = Q^T U`. The
    gradients are formed and summed if all of them fit `exact_bytes` together; otherwise extra memory is O(r (in + out))
    a layer, a G is formed only if it is smaller than that, and a sum over calls is truncated after each.

    Args:
        model: a PEFT model, or any module that holds Deep LoRA layers.
        closure: forward and `backward()` on micro-batches, called once, dropout off; every rank runs its own share.
        adapter_name, seed: the adapter to initialize; of Q and of the random test vectors.
        exact_bytes: form every G if all fit this memory; the split of batches over calls and processes then does not
            matter. 0 never does.
        sides: "right", ours, takes all directions from the inputs' side, for any rank, and scored higher
            (docs/few_shot.md); "both" is the paper's, for even ranks.

    Returns:
        What was initialized; a layer without a gradient keeps its random start and is named in a warning.

    Raises:
        ValueError: for no compressed adapter of that name, an odd rank with both sides, or gradients not finite.
        RuntimeError: if the closure never reached the layers with a backward pass.

    An error leaves all as it was, U and V too. Source: Yaras et al., ICML 2024, Deep LoRA; sketch and "right" are ours.

    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 6)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> initialize_subspaces_(model, lambda: model(torch.ones(3, 6)).square().sum().backward()).initialized
    ['base_model.model.0']
    """
    _warn_if_trained(model, adapter_name)
    report = set_subspaces_(model, closure, adapter_name, seed, exact_bytes=exact_bytes, sides=sides)
    if report.kept_random:
        modules = len(report.kept_random) + len(report.initialized)
        warnings.warn(
            f"no gradient reached {len(report.kept_random)} of {modules} adapted modules (or they are too small for "
            f"their rank); they keep their random subspace: {', '.join(report.kept_random)}",
            stacklevel=2,
        )
    return report


def set_subspaces_(
    model: nn.Module,
    closure: Callable[[], Any],
    adapter_name: str,
    seed: int,
    *,
    exact_bytes: int = EXACT_BYTES,
    sides: Sides = "right",
) -> InitializationReport:
    """Do what `initialize_subspaces_` does, without its warnings."""
    layers = layers_to_initialize(model, adapter_name)
    side = _side(sides, layers, adapter_name)
    seeds = {name: seed + index for index, name in enumerate(layers)}
    with_room = {name: layer for name, layer in layers.items() if _has_room(layer, adapter_name, side)}
    sketches = make_sketches(with_room, adapter_name, seeds, exact_bytes)
    calls = _watch_closure(model, closure, watched_layers(model, layers, sketches, adapter_name), sketches)
    sum_over_ranks(list(sketches.values()))
    _check_gradients(sketches, calls)
    seen = [name for name in layers if name in sketches and sketches[name].size() > 0]
    for name in seen:
        _write_subspaces(layers[name], adapter_name, sketches[name], seeds[name], side)
    return InitializationReport(seen, [name for name in layers if name not in seen])


def _warn_if_trained(model: nn.Module, adapter_name: str) -> None:
    trained = trained_modules(model, adapter_name)
    if trained:
        warnings.warn(
            f"adapter {adapter_name!r} was trained before ({trained}); new subspaces destroy what it has learned. To "
            "train on, as after a checkpoint was loaded, leave this call out",
            stacklevel=3,
        )


def _watch_closure(
    model: nn.Module,
    closure: Callable[[], Any],
    watched: Watched,
    sketches: dict[str, GradientSketch],
) -> dict[str, int]:
    """Run the closure, let the sketches see its gradients, and count the forward passes of every module."""
    calls = dict.fromkeys(sketches, 0)
    with ExitStack() as stack:
        stack.enter_context(gradients_put_aside(model))
        stack.enter_context(dropout_off(model))
        stack.enter_context(unwatched(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(probes(watched, sketches, calls))
        with torch.enable_grad():
            closure()
    return calls


def _side(sides: str, layers: dict[str, DeepLoraLayer], adapter_name: str) -> Side:
    if sides not in SIDES:
        raise ValueError(f"`sides` must be one of {', '.join(map(repr, SIDES))}, got {sides!r}")
    side = SIDES[sides]
    odd = sorted({layer.r[adapter_name] for layer in layers.values() if layer.r[adapter_name] % side.columns})
    if odd:
        raise ValueError(
            f"subspaces from both sides take r/2 left and r/2 right singular vectors, so `r` must be even, got {odd}; "
            'use an even rank, `sides="right"` (the default), or keep the random subspace by not calling this function'
        )
    return side


def _has_room(layer: DeepLoraLayer, adapter_name: str, side: Side) -> bool:
    """Tell whether there are enough singular vectors, columns fit, and the layer shows its gradient."""
    small, large = sorted((layer.in_features, layer.out_features))
    rank = layer.r[adapter_name]
    return layer.shows_gradient and rank <= large and side.vectors(rank) <= small


def _check_gradients(sketches: dict[str, GradientSketch], calls: dict[str, int]) -> None:
    broken = [name for name, sketch in sketches.items() if not sketch.finite]
    if broken:
        raise ValueError(
            f"the closure produced inputs or gradients that are not finite (NaN or inf) at {', '.join(broken)}; check "
            "the batch and the loss, lower a loss scale, or run the closure in float32. U and V are unchanged"
        )
    if sketches and not any(sketch.calls for sketch in sketches.values()):
        what = "ran forward passes but never called backward() on a loss" if any(calls.values()) else "never ran"
        raise RuntimeError(
            f"the closure {what} through the adapted modules, so there is no gradient to take subspaces from; it must "
            "do both, for example `lambda: model(**batch).loss.backward()`, and not under torch.no_grad()"
        )


@torch.no_grad()
def _write_subspaces(layer: DeepLoraLayer, adapter_name: str, sketch: GradientSketch, seed: int, side: Side) -> None:
    start = OrthogonalMap(layer.out_features, layer.in_features, seed)
    U, V = side.subspaces(sketch.leading(side.vectors(layer.r[adapter_name])), start)
    stored = 1 / layer.outer_scale[adapter_name]
    write_(layer.deep_lora_U[adapter_name], stored * U)
    write_(layer.deep_lora_V[adapter_name], stored * V)
