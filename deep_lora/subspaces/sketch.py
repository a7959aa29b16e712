"""`GradientSketch`: the leading singular triplets of a sum of gradients, from the products that a probe offers.

Every call builds a block Krylov space on the spot and keeps the few leading triplets of the sum of all calls so far.
What is cut off in between is lost, so a sum over several calls is approximate and depends on how it was split. Where
memory allows it, the gradients themselves are summed (`exact_bytes`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.gradient import GradientOperator
from dmf.functional import orthogonal
from dmf.linalg import FactorSVD, block_krylov_svd, factor_svd, leading_subspaces

# A call's Krylov space (`dmf.linalg.block_krylov_svd`) starts with r + OVERSAMPLING columns and adds ITERATIONS blocks.
OVERSAMPLING = 8
ITERATIONS = 4


@dataclass
class GradientSketch:
    """The leading singular triplets of a sum of gradients, kept as two factors `G ~ left right^T`.

    Matrices that are no larger than the factors, or if `form_gradient`, are summed exactly instead (`right` is then the
    identity, implicitly): the result then depends on the sum alone, not on how it was split over calls or processes.

    Args:
        rows, columns: shape of G.
        width: columns kept between calls; memory is `width (rows + columns)` numbers.
        block: random columns that a call adds to the known ones to start its Krylov space.
        iterations: blocks added to that space for each call.
        seed: of the random test vectors; drawn on the CPU, so the same everywhere.
        dtype, device: of the state.
        form_gradient: keep G itself, whatever its size.
    """

    rows: int
    columns: int
    width: int
    block: int
    iterations: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    form_gradient: bool = False
    calls: int = 0
    finite: bool = True
    state: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        if self.exact:
            self.state = (torch.zeros(self.rows, self.columns, **options),)
        else:
            self.state = (
                torch.zeros(self.rows, self.width, **options),
                torch.zeros(self.columns, self.width, **options),
            )
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def exact(self) -> bool:
        """Tell whether G itself is kept: if asked for, or if it is no larger than two factors of a block's width."""
        return self.form_gradient or self._no_larger_than_factors

    @property
    def _no_larger_than_factors(self) -> bool:
        return self.rows * self.columns <= self.block * (self.rows + self.columns)

    def update(self, operator: GradientOperator) -> None:
        """Add the gradient of one call."""
        self.calls += 1
        if self.exact:
            self.state[0].add_(operator.dense(self.dtype, self.device))
            return
        left, right = self.state
        known = right if self.calls > 1 else right[:, :0]
        svd = block_krylov_svd(
            lambda m: operator.apply(m).to(self.dtype) + left @ (right.mT @ m),
            lambda m: operator.apply_transpose(m).to(self.dtype) + right @ (left.mT @ m),
            torch.cat([known, self._test_vectors(known.shape[1])], dim=1),
            self.iterations,
        )
        self._keep(svd)

    def size(self) -> float:
        """Return the largest entry of what is kept of the gradient so far; 0 if there was none."""
        return self.state[0].abs().max().item()

    def merge(self, states: list[tuple[Tensor, ...]]) -> None:
        """Replace the factors by those of the sum of the given ones (those of all ranks)."""
        self._keep(factor_svd(torch.cat([s[0] for s in states], dim=1), torch.cat([s[1] for s in states], dim=1)))

    def leading(self, rank: int) -> FactorSVD:
        """Return the `rank` leading singular triplets of the sum so far."""
        if self._no_larger_than_factors:
            return leading_subspaces(self.state[0], rank)
        if self.exact:
            (gradient,) = self.state
            svd = block_krylov_svd(
                lambda m: gradient @ m, lambda m: gradient.mT @ m, self._test_vectors(0), self.iterations
            )
        else:
            svd = factor_svd(*self.state)
        return FactorSVD(svd.left[:, :rank], svd.values[:rank], svd.right[:, :rank])

    def _test_vectors(self, known: int) -> Float[Tensor, "columns fresh"]:
        """Draw random columns beside the known ones."""
        fresh = max(1, min(self.block, self.rows - known, self.columns - known))
        return orthogonal(self.columns, fresh, generator=self._generator, dtype=self.dtype, device=self.device)

    def _keep(self, svd: FactorSVD) -> None:
        kept = min(self.width, svd.values.numel())
        left, right = torch.zeros_like(self.state[0]), torch.zeros_like(self.state[1])
        left[:, :kept] = svd.left[:, :kept] * svd.values[:kept]
        right[:, :kept] = svd.right[:, :kept]
        self.state = (left, right)


def kept_width(r: int) -> int:
    """Return how many singular triplets to keep between calls; those beyond r, or r/2, make sums more accurate."""
    return r + r // 2


def make_sketches(
    layers: dict[str, DeepLoraLayer],
    adapter_name: str,
    seeds: dict[str, int],
    exact_bytes: int,
) -> dict[str, GradientSketch]:
    """Make a sketch for every layer.

    All keep the gradient itself if those take at most `exact_bytes` together; else only those do in which it is no
    larger than the factors.
    """
    dtypes = {
        name: torch.promote_types(layer.deep_lora_U[adapter_name].dtype, torch.float32)
        for name, layer in layers.items()
    }
    needed = sum(layer.out_features * layer.in_features * dtypes[name].itemsize for name, layer in layers.items())
    return {
        name: GradientSketch(
            rows=layer.out_features,
            columns=layer.in_features,
            width=kept_width(layer.r[adapter_name]),
            block=layer.r[adapter_name] + OVERSAMPLING,
            iterations=ITERATIONS,
            seed=seeds[name],
            dtype=dtypes[name],
            device=layer.deep_lora_U[adapter_name].device,
            form_gradient=needed <= exact_bytes,
        )
        for name, layer in layers.items()
    }  # fmt: skip
