"""Watch the gradient `G = dL/dW` of adapted layers during a backward pass without ever forming it.

A probe on the output of a layer meets the layer's input and the gradient of its output in the backward pass, where
their products with G are cheap: `G M = delta^T (x M)`. One-pass linear sketches of G turn out useless here (the leading
singular values of real gradients lie within percents of each other: benchmarks/README.md), so the probe builds a block
Krylov space on the spot and keeps the few leading singular triplets of the sum of all calls so far.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dmf import FactorSVD, block_krylov_svd, factor_svd, leading_subspaces, orthogonal


@dataclass
class GradientOperator:
    """`G = dL/dW` (rows x columns) of one call of a layer, known by its products with blocks of columns.

    Attributes:
        rows, columns: out and in of the update.
        apply: `M -> G M`, M (columns, k).
        apply_transpose: `M -> G^T M`, M (rows, k).
    """

    rows: int
    columns: int
    apply: Callable[[Tensor], Tensor]
    apply_transpose: Callable[[Tensor], Tensor]

    def transpose(self) -> GradientOperator:
        """The same gradient seen from a tied layer whose weight is the transpose."""
        return GradientOperator(self.columns, self.rows, self.apply_transpose, self.apply)

    @classmethod
    def from_rows(cls, x: Float[Tensor, "tokens in"], delta: Float[Tensor, "tokens out"]) -> GradientOperator:
        """`G = delta^T x`, in float32 or better.

        >>> x, delta = torch.ones(5, 3), torch.ones(5, 2)
        >>> GradientOperator.from_rows(x, delta).apply(torch.eye(3))
        tensor([[5., 5., 5.],
                [5., 5., 5.]])
        """
        wide = torch.promote_types(torch.promote_types(x.dtype, delta.dtype), torch.float32)
        x, delta = x.to(wide), delta.to(wide)
        return cls(
            rows=delta.shape[1],
            columns=x.shape[1],
            apply=lambda block: delta.mT @ (x @ block.to(wide)),
            apply_transpose=lambda block: x.mT @ (delta @ block.to(wide)),
        )


@dataclass
class GradientSketch:
    """The leading singular triplets of a sum of gradients, kept as two factors `G ~ left right^T`.

    Matrices that are no larger than the factors are summed exactly instead (`right` is then the identity, implicitly).

    Args:
        rows, columns: shape of G.
        width: columns kept between calls; memory is `width (rows + columns)` numbers.
        block: random columns that a call adds to the known ones to start its Krylov space.
        iterations: blocks added to that space for each call.
        seed: of the random test vectors; drawn on the CPU, so the same everywhere.
        dtype, device: of the state.
    """

    rows: int
    columns: int
    width: int
    block: int
    iterations: int
    seed: int
    dtype: torch.dtype
    device: torch.device
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
        """Whether G itself is kept, because it is no larger than two factors with as many columns as a block."""
        return self.rows * self.columns <= self.block * (self.rows + self.columns)

    def update(self, operator: GradientOperator) -> None:
        """Add the gradient of one call."""
        self.calls += 1
        if self.exact:
            eye = torch.eye(min(self.rows, self.columns), dtype=self.dtype, device=self.device)
            dense = operator.apply(eye) if self.columns <= self.rows else operator.apply_transpose(eye).mT
            self.state = (self.state[0] + dense.to(self.dtype),)
            return
        left, right = self.state
        known = right if self.calls > 1 else right[:, :0]
        fresh = max(1, min(self.block, self.rows - known.shape[1], self.columns - known.shape[1]))
        block = orthogonal(self.columns, fresh, generator=self._generator, dtype=self.dtype, device=self.device)
        svd = block_krylov_svd(
            lambda m: operator.apply(m).to(self.dtype) + left @ (right.mT @ m),
            lambda m: operator.apply_transpose(m).to(self.dtype) + right @ (left.mT @ m),
            torch.cat([known, block], dim=1),
            self.iterations,
        )
        self._keep(svd)

    def size(self) -> float:
        """Largest entry of what is kept of the gradient so far; 0 if there was none."""
        return self.state[0].abs().max().item()

    def merge(self, states: list[tuple[Tensor, ...]]) -> None:
        """Replace the state by the sum of the given ones (those of all ranks)."""
        if self.exact:
            self.state = (torch.stack([state[0] for state in states]).sum(0),)
            return
        self._keep(factor_svd(torch.cat([s[0] for s in states], dim=1), torch.cat([s[1] for s in states], dim=1)))

    def leading(self, rank: int) -> FactorSVD:
        """The `rank` leading singular triplets of the sum so far."""
        if self.exact:
            return leading_subspaces(self.state[0], rank)
        svd = factor_svd(*self.state)
        return FactorSVD(svd.left[:, :rank], svd.values[:rank], svd.right[:, :rank])

    def _keep(self, svd: FactorSVD) -> None:
        kept = min(self.width, svd.values.numel())
        left, right = torch.zeros_like(self.state[0]), torch.zeros_like(self.state[1])
        left[:, :kept] = svd.left[:, :kept] * svd.values[:kept]
        right[:, :kept] = svd.right[:, :kept]
        self.state = (left, right)


class GradientProbe(torch.autograd.Function):
    """Identity on a layer's output that shows the layer's input and the output's gradient to `record` in backward.

    The input is kept by `save_for_backward`, so activation checkpointing frees and recomputes it as usual. `anchor`
    is a scalar that requires grad: the output then does too, even if nothing else in the model is trainable yet.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, anchor: Tensor, x: Tensor, record: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.record = record
        return output.clone()  # not a view: the caller may overwrite it in place, as ReLU(inplace=True) does

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        with torch.no_grad(), torch.autocast(grad_output.device.type, enabled=False):
            ctx.record(ctx.saved_tensors[0], grad_output)
        return grad_output, None, None, None


def all_finite(*tensors: Tensor) -> bool:
    """Whether there is no NaN and no inf, without large temporaries: a sum carries them on (in float32 or better)."""
    wide = torch.promote_types(torch.float32, functools.reduce(torch.promote_types, [t.dtype for t in tensors]))
    return bool(torch.isfinite(torch.stack([tensor.sum(dtype=wide) for tensor in tensors])).all())
