"""`Update`: what one adapter adds to one weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deep_lora.functional import Factors, cores_at, delta_weight, fold_cores, fold_differences


@dataclass(frozen=True)
class Update:
    """`dW = U folded V^T` of one adapter of one layer: its tensors, and everything that follows from them.

    It knows neither layers nor PEFT. Forward, merging, export and inspection all ask it.

    Attributes:
        U, core, V: factors; `core` is (n, r, r), of stacked experts (n, experts, r, r).
        core_scale: kappa, by which every stored core is multiplied.
        outer_scale: by which the stored U and V are multiplied.
        scaling: of the whole update; 1 is the trained one.
        start: what the diagonals of the cores held at the start; subtracted. None subtracts nothing.
        differences: the stored cores lack that start; otherwise `start` is rounded as they are.
        transposed: the chain of cores acts in the other direction, as in a tied head.

    >>> eye = torch.eye(2)
    >>> update = Update(eye, 2 * eye.expand(3, 2, 2), eye, core_scale=0.5, start=torch.tensor(1.0))
    >>> update.dense()
    tensor([[0.8750, 0.0000],
            [0.0000, 0.8750]])
    """

    U: Float[Tensor, "*batch out r"]
    core: Float[Tensor, "n *batch r r"]
    V: Float[Tensor, "*batch in r"]
    core_scale: float
    outer_scale: float = 1.0
    scaling: float = 1.0
    start: Float[Tensor, ""] | None = None
    transposed: bool = False
    differences: bool = False

    def folded(self) -> Float[Tensor, "*batch r r"]:
        """Return the r x r middle (see `fold_cores` and `fold_differences` in `deep_lora.functional`), scaled."""
        if self.differences and self.start is not None:
            folded = fold_differences(self.core, self.core_scale, self.start, transposed=self.transposed)
        else:
            folded = fold_cores(self.core, self.core_scale, self.start, transposed=self.transposed)
        scale = self.outer_scale**2 * self.scaling
        return folded if scale == 1.0 else folded * scale

    def factors(self) -> Factors:
        """Return `(U, folded, V)`, all in the dtype of U (a trainer may have cast only the cores)."""
        return self.U, self.folded().to(self.U.dtype), self.V

    def dense(self) -> Float[Tensor, "*batch out in"]:
        """Return dW itself."""
        return delta_weight(*self.factors())

    def at_start(self, init_scale: float) -> bool:
        """Tell whether the cores are as they were drawn, `init_scale I` over kappa; then U and V hold nothing learned.

        Where the start is subtracted this is exact; elsewhere cores may have been rounded to half precision since.
        """
        if self.start is not None:
            return cores_at(self.core, 0.0 if self.differences else self.start.to(self.core.device))
        return cores_at(self.core, init_scale / self.core_scale, tolerance=torch.finfo(torch.bfloat16).eps)
