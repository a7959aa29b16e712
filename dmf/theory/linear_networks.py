"""Deep linear networks: a deep matrix factorization that acts on data.

With whitened inputs (`X^T X = I`) the squared error of the network on targets Y is that of the factorization on the
matrix `Y^T X`, up to a constant, and the theory of `dmf.theory` applies word for word; without whitening it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from dmf.wide import DeepMatrixFactorization


class DeepLinearNetwork(nn.Module):
    """`y = W_L ... W_1 x`, or with an activation between the layers, without biases.

    Args:
        n_in, n_out: sizes of input and output.
        width, depth, init_scale, start, generator, dtype, device: as in `DeepMatrixFactorization`.
        activation: applied after every layer but the last; None gives the linear network.

    Attributes:
        matrix: the `DeepMatrixFactorization` that holds the weights.

    Raises:
        ValueError: as `DeepMatrixFactorization` does.

    Source: Yaras et al., arXiv:2306.01154, the deep linear network on whitened inputs.

    >>> network = DeepLinearNetwork(4, 2, width=5, depth=3)
    >>> network(torch.zeros(7, 4)).shape, [h.shape[1] for h in network.features(torch.zeros(7, 4))]
    (torch.Size([7, 2]), [4, 5, 5, 2])
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        width: int | None = None,
        depth: int = 3,
        init_scale: float = 1e-3,
        start: str = "orthogonal",
        activation: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"generator": generator, "dtype": dtype, "device": device}
        self.matrix = DeepMatrixFactorization(
            n_out, n_in, width=width, depth=depth, init_scale=init_scale, start=start, **options
        )
        self.activation = activation

    def features(self, x: Float[Tensor, "n in"]) -> list[Float[Tensor, "n _"]]:
        """The inputs, what follows each layer, and the outputs: L + 1 tensors."""
        *hidden, last = self.matrix.factors
        layers = [x]
        for weight in hidden:
            outputs = layers[-1] @ weight.mT
            layers.append(outputs if self.activation is None else self.activation(outputs))
        return [*layers, layers[-1] @ last.mT]

    def forward(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """The outputs, one row a sample."""
        return self.features(x)[-1]


def whiten(inputs: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "d d"]]:
    """Inputs whose columns are orthonormal, `Z = X T` with `Z^T Z = I`, and the symmetric map `T = (X^T X)^{-1/2}`.

    Args:
        inputs: X, one row a sample; n >= d and of full column rank. Nothing is centred.

    Returns:
        Z and T; new inputs are whitened by `new @ T`.

    Raises:
        ValueError: if the columns are linearly dependent (always so for n < d).

    >>> z, _ = whiten(torch.tensor([[3.0, 0.0], [0.0, 2.0], [4.0, 0.0]]))
    >>> torch.allclose(z.T @ z, torch.eye(2))
    True
    """
    u, s, vh = torch.linalg.svd(inputs, full_matrices=False)
    dimension = inputs.shape[1]
    if len(s) < dimension or s[-1] <= s[0] * max(inputs.shape) * torch.finfo(s.dtype).eps:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)} have linearly dependent columns and cannot be whitened; project "
            "them on fewer directions, or take more samples"
        )
    return u @ vh, (vh.mT / s) @ vh


def descend(
    loss: Callable[[], Float[Tensor, ""]], optimizer: Optimizer, num_steps: int, *, every: int = 1
) -> Iterator[tuple[int, float]]:
    """Train with any torch optimizer and stop over every `every` steps, to look at the model.

    Weight decay, momentum and Adam are settings of the optimizer. SGD without momentum and with `weight_decay=lambda`
    is the descent of the theory.

    Args:
        loss: computes the loss of the present parameters.
        optimizer: over the parameters to train.
        num_steps: at least 0.
        every: steps between two stops, at least 1.

    Yields:
        (step, loss) before the step of that number is taken, from (0, start) to (num_steps, end); the parameters are
        those of the loss.

    Raises:
        ValueError: if a number is out of range.
        FloatingPointError: if the loss stops being finite.

    >>> w = nn.Parameter(torch.tensor(1.0))
    >>> [step for step, _ in descend(lambda: w.square(), torch.optim.SGD([w], lr=0.1), 5, every=2)]
    [0, 2, 4, 5]
    """
    if num_steps < 0 or every < 1:
        raise ValueError(
            f"num_steps must be at least 0 and every at least 1, got {num_steps} steps and every {every} steps"
        )
    for step in range(num_steps + 1):
        optimizer.zero_grad()
        value = loss()
        if step % every == 0 or step == num_steps:
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(f"the loss is {value.item()} after {step} steps; use a smaller rate")
            yield step, value.item()
        if step < num_steps:
            value.backward()
            optimizer.step()
