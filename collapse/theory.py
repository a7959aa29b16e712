"""The theory as an experiment: features as free variables on a product of spheres.

    min f(W, H) = (1/N) sum_i CE(scale W h_i, y_i)   over unit rows w_k of W (K, d) and h_i of H (N, d)

Its global minima are simplex ETFs with every feature on its class vector, and all other critical points are strict
saddles (Yaras et al., NeurIPS 2022, theorems 1 and 2; there class vectors and features are columns). Everything works
on a `SphereProduct` of both, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from collapse.scale import attainable_loss
from collapse.simplex import moments_simplex_distance, simplex_distance
from collapse.sphere import geodesic, tangent_part, unit_rows

__all__ = [
    "SphereProduct",
    "UnconstrainedFeatures",
    "collapsed_saddle",
    "geodesic",
    "moments_simplex_distance",
    "most_negative_curvature",
    "riemannian_gradient",
    "riemannian_hessian",
    "simplex_distance",
    "tangent_part",
    "unconstrained_features",
    "unit_rows",
]


class SphereProduct(NamedTuple):
    """A point, or a tangent or ambient vector: class vectors (K, d) and features (N, d)."""

    weight: Float[Tensor, "K d"]
    features: Float[Tensor, "N d"]

    def plus(self, other: SphereProduct, factor: float = 1.0) -> SphereProduct:
        """Return `self + factor * other`."""
        return SphereProduct(self.weight + factor * other.weight, self.features + factor * other.features)

    def inner(self, other: SphereProduct) -> float:
        """Return the Euclidean inner product."""
        return ((self.weight * other.weight).sum() + (self.features * other.features).sum()).item()

    def retracted(self) -> SphereProduct:
        """Return the point with every row normalized."""
        return SphereProduct(unit_rows(self.weight), unit_rows(self.features))


class UnconstrainedFeatures(NamedTuple):
    """Where Riemannian gradient descent ended."""

    point: SphereProduct
    losses: list[float]
    gradient_norm: float
    minimum: float  # the closed form, `attainable_loss`
    converged: bool


def loss(point: SphereProduct, labels: Int[Tensor, " N"], scale: float) -> float:
    """Compute f(W, H).

    >>> round(loss(SphereProduct(torch.eye(2), torch.eye(2)), torch.tensor([0, 1]), 1.0), 4)
    0.3133
    """
    return functional.cross_entropy(scale * point.features @ point.weight.mT, labels).item()


def riemannian_gradient(point: SphereProduct, labels: Int[Tensor, " N"], scale: float) -> SphereProduct:
    """Compute the tangent part of the gradient, `g - <p, g> p` for each row p.

    >>> point = SphereProduct(torch.eye(2), torch.eye(2))
    >>> riemannian_gradient(point, torch.tensor([0, 1]), 1.0).features
    tensor([[0.0000, 0.1345],
            [0.1345, 0.0000]])
    """
    ambient = _euclidean_gradient(point, labels, scale)
    return SphereProduct(tangent_part(point.weight, ambient.weight), tangent_part(point.features, ambient.features))


def riemannian_hessian(
    point: SphereProduct, tangent: SphereProduct, labels: Int[Tensor, " N"], scale: float
) -> SphereProduct:
    """Apply the Riemannian Hessian to a tangent vector.

        Hess[D] = tangent part of ( D^2 f [D] - <p, grad f> D ),   row by row; <Hess[D], D> is f'' along the geodesic

    Source: Yaras et al., NeurIPS 2022 (bilinear form of the Riemannian Hessian).

    >>> point = collapsed_saddle(dimension=2, num_classes=2, per_class=1)
    >>> apart = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    >>> riemannian_hessian(point, SphereProduct(apart, apart), torch.arange(2), 1.0).features
    tensor([[ 0.0000, -0.5000],
            [ 0.0000,  0.5000]], dtype=torch.float64)
    """
    ambient = _euclidean_gradient(point, labels, scale)
    probabilities, residuals = _residuals(point, labels, scale)
    moved = tangent.features @ point.weight.mT + point.features @ tangent.weight.mT
    weighted = probabilities * moved
    change = scale / len(labels) * (weighted - probabilities * weighted.sum(1, keepdim=True))
    curved = SphereProduct(
        scale * (change.mT @ point.features + residuals.mT @ tangent.features),
        scale * (change @ point.weight + residuals @ tangent.weight),
    )
    rows = []
    for p, g, second, d in zip(point, ambient, curved, tangent, strict=True):
        rows.append(tangent_part(p, second - (p * g).sum(1, keepdim=True) * d))
    return SphereProduct(*rows)


def most_negative_curvature(
    point: SphereProduct, labels: Int[Tensor, " N"], scale: float, steps: int = 500, seed: int = 0
) -> tuple[float, SphereProduct]:
    """Find the smallest eigenvalue of the Riemannian Hessian and its unit tangent vector, by power iteration.

    The spectrum is shifted by a bound on the Hessian's norm, so the iteration finds the smallest eigenvalue; after any
    number of steps the value is an upper bound. A negative value at a critical point means a strict saddle.

    >>> point = collapsed_saddle(dimension=3, num_classes=3, per_class=1)
    >>> most_negative_curvature(point, torch.arange(3), 1.0)[0] < 0
    True
    """
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(part.shape, generator=generator, dtype=part.dtype).to(part.device) for part in point]
    vector = SphereProduct(*(tangent_part(p, draw) for p, draw in zip(point, draws, strict=True)))
    # |Hess| <= |D^2 f| + |grad|: both follow from |W|, |H| <= sqrt of their row counts, with unit rows.
    sizes = len(point.weight) + len(point.features)
    shift = scale * (scale * sizes + 3 * sizes**0.5)
    value = float("inf")
    for _ in range(steps):
        vector = _scaled(vector, 1 / vector.inner(vector) ** 0.5)
        image = riemannian_hessian(point, vector, labels, scale)
        value = vector.inner(image)
        vector = _scaled(vector, shift).plus(image, -1.0)
    return value, _scaled(vector, 1 / vector.inner(vector) ** 0.5)


def collapsed_saddle(
    dimension: int, num_classes: int, per_class: int, dtype: torch.dtype = torch.float64
) -> SphereProduct:
    """Make a critical point that is not a minimum: all class vectors and features are the same unit vector.

    >>> point = collapsed_saddle(2, 3, 1)
    >>> riemannian_gradient(point, torch.arange(3), 1.0).weight.abs().max().item() < 1e-15
    True
    """
    first = torch.eye(dimension, dtype=dtype)[:1]
    return SphereProduct(first.repeat(num_classes, 1), first.repeat(num_classes * per_class, 1))


def _euclidean_gradient(point: SphereProduct, labels: Tensor, scale: float) -> SphereProduct:
    _, residuals = _residuals(point, labels, scale)
    return SphereProduct(scale * residuals.mT @ point.features, scale * residuals @ point.weight)


def _residuals(point: SphereProduct, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return softmax probabilities P (N, K), and (P - Y) / N without forming Y."""
    probabilities = torch.softmax(scale * point.features @ point.weight.mT, dim=1)
    ones = torch.ones_like(labels, dtype=probabilities.dtype)[:, None]
    return probabilities, probabilities.scatter_add(1, labels[:, None], -ones) / len(labels)


def _scaled(vector: SphereProduct, factor: float) -> SphereProduct:
    return SphereProduct(factor * vector.weight, factor * vector.features)


def unconstrained_features(
    dimension: int,
    num_classes: int,
    scale: float,
    *,
    per_class: int = 1,
    tolerance: float = 1e-10,
    max_steps: int = 20_000,
    seed: int = 0,
) -> UnconstrainedFeatures:
    """Run Riemannian gradient descent from random unit vectors.

    Steps have Barzilai-Borwein length and are halved until the loss falls below the largest of the last ten by Armijo's
    rule (a non-monotone line search), then every row is retracted onto its sphere.

    Args:
        dimension: d; the closed form is attained from d = K - 1 on.
        num_classes: K.
        scale: of the cosines; the larger, the flatter the landscape around the minimum.
        per_class: n, features for each class.
        tolerance: stop at this Riemannian gradient norm.
        max_steps: give up after so many steps.
        seed: of the start.

    Returns:
        The last point, its losses, and the closed-form minimum.

    Raises:
        ValueError: for sizes out of range.

    Source: Yaras et al., NeurIPS 2022, on a product of spheres; step lengths of Iannazzo and Porcelli,
    IMA J. Numer. Anal. 2018.

    >>> result = unconstrained_features(4, 3, 1.0)
    >>> result.converged, abs(result.losses[-1] - result.minimum) < 1e-10
    (True, True)
    """
    if min(dimension, num_classes - 1, per_class, max_steps) < 1:
        raise ValueError(
            "unconstrained features need dimension, per_class, max_steps >= 1 and num_classes >= 2, got "
            f"{dimension}, {per_class}, {max_steps} and {num_classes}"
        )
    minimum = attainable_loss(num_classes, scale)
    generator = torch.Generator().manual_seed(seed)
    sizes = ((num_classes, dimension), (num_classes * per_class, dimension))
    point = SphereProduct(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)).retracted()
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    gradient = riemannian_gradient(point, labels, scale)
    losses, step = [loss(point, labels, scale)], 1.0 / scale
    norm = gradient.inner(gradient) ** 0.5
    for _ in range(max_steps):
        if norm <= tolerance:
            break
        ceiling = max(losses[-10:])
        previous, point = point, _line_search(point, gradient, labels, scale, step, ceiling)
        losses.append(loss(point, labels, scale))
        old, gradient = gradient, riemannian_gradient(point, labels, scale)
        norm = gradient.inner(gradient) ** 0.5
        step = _barzilai_borwein(point.plus(previous, -1.0), gradient.plus(old, -1.0), step)
    return UnconstrainedFeatures(point, losses, norm, minimum, norm <= tolerance)


def _line_search(
    point: SphereProduct, gradient: SphereProduct, labels: Tensor, scale: float, step: float, ceiling: float
) -> SphereProduct:
    slope = gradient.inner(gradient)
    for _ in range(60):
        trial = point.plus(gradient, -step).retracted()
        if loss(trial, labels, scale) <= ceiling - 1e-4 * step * slope:
            break
        step /= 2
    return trial


def _barzilai_borwein(moved: SphereProduct, changed: SphereProduct, step: float) -> float:
    """Return `<s, s> / |<s, y>|`, within a factor of ten of the last step."""
    curvature = abs(moved.inner(changed))
    proposal = moved.inner(moved) / curvature if curvature > 0 else 10 * step
    return min(max(proposal, step / 10), 10 * step)
