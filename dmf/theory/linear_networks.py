"""Deep linear networks: a deep matrix factorization that acts on data.

With whitened inputs (`X^T X = I`) the squared error of the network on targets Y is that of the factorization on the
matrix `Y^T X`, up to a constant, and the theorem of the invariant subspace holds; without whitening it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dmf.factorization import DeepMatrixFactorization


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
        """Return the inputs, the features after each layer, and the outputs: L + 1 tensors."""
        *hidden, last = self.matrix.factors
        layers = [x]
        for weight in hidden:
            outputs = layers[-1] @ weight.mT
            layers.append(outputs if self.activation is None else self.activation(outputs))
        return [*layers, layers[-1] @ last.mT]

    def forward(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Return the outputs, one row for each sample."""
        return self.features(x)[-1]


def whiten(inputs: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "d d"]]:
    """Make the columns of the inputs orthonormal: `Z = X T` with `Z^T Z = I` and the symmetric `T = (X^T X)^{-1/2}`.

    Args:
        inputs: X, one row for each sample; n >= d and of full column rank. They are not centered.

    Returns:
        Z and T; whiten new inputs with `new @ T`.

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
            "them onto fewer directions, or take more samples"
        )
    return u @ vh, (vh.mT / s) @ vh


class LogLinearFit(NamedTuple):
    """`value_l = scale * factor^l`, fitted to the logarithms, and the share of their variance that it explains."""

    factor: float
    scale: float
    r_squared: float


def log_linear_fit(values: Float[Tensor, " layers"]) -> LogLinearFit:
    """Fit a least-squares line through `log value_l` over l = 0, 1, ...

    It shows whether a quantity falls by one factor from layer to layer, as tr(S_W) / tr(S_B) does in trained networks.

    Raises:
        ValueError: if there are fewer than two values, or a value is not positive and finite.

    Source: the progressive collapse experiment of Yaras et al., arXiv:2306.01154.

    >>> fit = log_linear_fit(torch.tensor([8.0, 4.0, 2.0]))
    >>> round(fit.factor, 4), round(fit.scale, 4), round(fit.r_squared, 4)
    (0.5, 8.0, 1.0)
    """
    if values.ndim != 1 or len(values) < 2 or not bool((values > 0).all() and torch.isfinite(values).all()):
        raise ValueError(
            f"a log-linear fit needs at least two positive finite values in a vector, got {values.tolist()}"
        )
    logs = values.detach().double().log()
    layer = torch.arange(len(logs), dtype=logs.dtype, device=logs.device)
    centered, deviation = layer - layer.mean(), logs - logs.mean()
    slope = (centered * deviation).sum() / centered.square().sum()
    total = deviation.square().sum()
    explained = 1.0 if total == 0 else (1 - (deviation - slope * centered).square().sum() / total).item()
    return LogLinearFit(slope.exp().item(), (logs.mean() - slope * layer.mean()).exp().item(), explained)
