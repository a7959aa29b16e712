"""`add_weighted_adapter`: a new adapter whose update combines the updates of others.

A sum of updates is not a deep factorization of the same factors, but every matrix of rank R is one of rank R: the
singular vectors become U and V and the n-th root of the singular values the cores. `svd`, `linear` and `cat` therefore
work on the factors alone and are exact up to the rank that they keep; the pruning methods need the dense updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from peft.utils import AuxiliaryTrainingWrapper
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, ties
from torch import Tensor, nn

from deep_lora.functional import start_product, two_factors
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from dmf.linalg import FactorSVD, factor_svd, leading_subspaces

_FACTORED = ("svd", "linear", "cat")


class WeightedAdapters:
    """The part of the tuner that combines adapters; mixed into a `BaseTuner`."""

    peft_config: dict[str, Any]
    model: Any
    inject_adapter: Callable[..., None]
    set_requires_grad: Callable[..., None]
    delete_adapter: Callable[[str], None]
    _cast_adapter_dtype: Callable[..., None]
    _check_add_weighted_adapter: Callable[..., tuple[str, int, Any]]

    @torch.no_grad()
    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """Add an adapter with the update `sum_i weights[i] dW_i`, or a pruned combination of the updates.

        What one of them trains whole (`modules_to_save`, rows of embeddings) is that of the new adapter.

        Args:
            adapters, weights: the adapters to combine, one weight each (negative ones subtract).
            adapter_name: name of the new adapter, in float32 or better; nothing happens if it exists.
            combination_type: "svd" (best approximation of rank `svd_rank`, by default the largest rank given),
                "linear" (the same at the common rank), "cat" (exact, ranks add up), or "ties", "dare_linear",
                "dare_ties", "magnitude_prune", each also with the suffix "_svd", as in PEFT's LoRA.
            svd_rank: rank of the result for "svd" types.
            density: fraction of entries that the pruning methods keep, in [0, 1].
            majority_sign_method: "total" or "frequency", for the ties methods.

        Raises:
            ValueError: for unknown adapters or types, different ranks where one is needed, wide adapters without an
                `svd_rank`, shared `modules_to_save`, rows of two adapters, or a density out of range. The model is then
                as it was.
        """
        if adapter_name in self.peft_config:
            return
        if len(weights) != len(adapters):
            raise ValueError(f"one weight is needed for each adapter, got {len(weights)} for {len(adapters)} adapters")
        kind, rank, targets = self._check_add_weighted_adapter(
            adapters=adapters, combination_type=combination_type, svd_rank=svd_rank
        )
        method = kind.removesuffix("_svd")
        self._check_combination(adapters, kind, svd_rank, density, majority_sign_method)
        first = self.peft_config[adapters[0]]
        self.peft_config[adapter_name] = replace(
            first, r=rank, target_modules=targets, variant="compressed", rank_pattern={}, **self._whole(adapters)
        )
        try:
            self.inject_adapter(self.model, adapter_name)
            self._cast_adapter_dtype(adapter_name)  # half precision would round the start and the sum alike
            combine = _combination(method, density, majority_sign_method)
            for layer in adapted_layers(self.model, adapter_name).values():
                present = [(name, w) for name, w in zip(adapters, weights, strict=True) if name in layer.deep_lora_U]
                write_update(layer, adapter_name, combine(layer, present))
            for module in self.model.modules():
                if isinstance(module, AuxiliaryTrainingWrapper):
                    _take_over(module, adapters, adapter_name)
        except Exception:
            self.delete_adapter(adapter_name)
            raise
        self.set_requires_grad(adapter_name, requires_grad=False)

    def _whole(self, adapters: list[str]) -> dict[str, Any]:
        """Return the fields of the configuration for what one of the adapters trains whole."""
        configs = {name: self.peft_config[name] for name in adapters}
        rows = [name for name, config in configs.items() if config.trainable_token_indices is not None]
        if len(rows) > 1:
            raise ValueError(
                f"the adapters {' and '.join(map(repr, rows))} all train rows of embeddings, which cannot be combined; "
                "take adapters of which one at most has `trainable_token_indices`"
            )
        saved = dict.fromkeys(module for config in configs.values() for module in config.modules_to_save or ())
        return {
            "modules_to_save": list(saved) or self.peft_config[adapters[0]].modules_to_save,
            "trainable_token_indices": configs[rows[0]].trainable_token_indices if rows else None,
            "ensure_weight_tying": any(config.ensure_weight_tying for config in configs.values()),
        }

    def _check_combination(
        self, adapters: list[str], kind: str, svd_rank: int | None, density: float | None, majority_sign_method: str
    ) -> None:
        if kind.removesuffix("_svd") not in _FACTORED and (density is None or not 0 <= density <= 1):
            raise ValueError(f"combination_type {kind!r} needs a `density` in [0, 1], got {density}")
        if majority_sign_method not in ("total", "frequency"):
            raise ValueError(f"`majority_sign_method` must be 'total' or 'frequency', got {majority_sign_method!r}")
        if svd_rank is None and any(self.peft_config[name].variant == "wide" for name in adapters):
            raise ValueError(
                f"adapters of variant 'wide' have full rank, so the default rank of {kind!r} cannot hold "
                "their sum; use combination_type='svd' with an `svd_rank`"
            )


def _take_over(wrapper: Any, adapters: list[str], adapter_name: str) -> None:
    """Copy what one of the adapters trains whole of a module to the new one."""
    for part in wrapper.adapter_layer_names:
        held = attrgetter(part)(wrapper)
        for name in adapters if adapter_name in held else ():
            if name in held and isinstance(held[name], nn.Module):
                held[adapter_name].load_state_dict(held[name].state_dict())
            elif name in held:
                held[adapter_name].copy_(held[name])


def _combination(method: str, density: float | None, majority_sign_method: str) -> Callable[..., FactorSVD]:
    if method in _FACTORED:
        return _combine_factors
    functions: dict[str, Callable[[list[Tensor], Tensor], Tensor]] = {
        "ties": lambda deltas, weights: ties(deltas, weights, density, majority_sign_method),
        "dare_linear": lambda deltas, weights: dare_linear(deltas, weights, density),
        "dare_ties": lambda deltas, weights: dare_ties(deltas, weights, density, majority_sign_method),
        "magnitude_prune": lambda deltas, weights: magnitude_prune(deltas, weights, density),
    }

    def combine(layer: DeepLoraLayer, present: Sequence[tuple[str, float]]) -> FactorSVD:
        deltas = [layer.update(name).dense().float() for name, _ in present]
        weights = torch.tensor([weight for _, weight in present], device=deltas[0].device)
        dense = functions[method](deltas, weights)
        return leading_subspaces(dense, min(dense.shape))

    return combine


def _combine_factors(layer: DeepLoraLayer, present: Sequence[tuple[str, float]]) -> FactorSVD:
    lefts, rights = [], []
    for name, weight in present:
        left, right = two_factors(layer.update(name).factors())
        lefts.append(weight * left)
        rights.append(right)
    return factor_svd(torch.cat(lefts, dim=1), torch.cat(rights, dim=1))


@torch.no_grad()
def write_update(layer: DeepLoraLayer, adapter_name: str, svd: FactorSVD) -> None:
    """Set the adapter of that name to the given update, truncated to its rank.

    With `dW = L S R^T`: U = L and V = R, over `outer_scale`, and every core `((S + start) ** (1/n)) / kappa` on its
    diagonal, less what is left out of it.

    Raises:
        ValueError: if the adapter holds stacked experts, or has no cores to hold the singular values.
    """
    U, core, V = (getattr(layer, name)[adapter_name] for name in layer.adapter_layer_names)
    if U.ndim != 2 or core.shape[0] == 0:
        raise ValueError(
            f"an update can only be written to a compressed adapter of a matrix, but `{adapter_name}` has U of shape "
            f"{tuple(U.shape)} and {core.shape[0]} cores"
        )
    rank = min(layer.r[adapter_name], svd.values.numel())
    values = torch.zeros(layer.r[adapter_name], dtype=torch.float64)
    values[:rank] = svd.values[:rank].cpu()
    U.zero_()
    V.zero_()
    stored = 1 / layer.outer_scale[adapter_name]
    U[:, :rank] = stored * svd.left[:, :rank].to(U)
    V[:, :rank] = stored * svd.right[:, :rank].to(V)
    update = layer.update(adapter_name)
    kappa, start, values = update.core_scale, update.start, values / update.scaling
    if start is not None:
        start = start.cpu().double() if update.differences else start.cpu()
        values = values + start_product(start, kappa, core.shape[0])
    diagonal = values ** (1.0 / core.shape[0]) / kappa
    if start is not None and update.differences:
        diagonal = diagonal - start
    core.copy_(torch.diag(diagonal).to(core).expand_as(core))
