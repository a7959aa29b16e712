"""How large a scale has to be: what cross entropy can reach on the sphere.

Cosines lie in [-1, 1], so with logits `scale * cosine` the loss cannot fall below a floor that grows with the number of
classes K. A scale of 1 leaves a floor of 1.4 at K = 10 and of 5.9 at K = 1,000, and the features stop there.
"""

from __future__ import annotations

import math

DEFAULT_ATTAINABLE_LOSS = 0.01


def attainable_loss(num_classes: int, scale: float) -> float:
    """Compute the least mean cross entropy of K balanced classes with unit features and unit class vectors.

        f* = log(1 + (K - 1) exp(-scale K / (K - 1)))

    It is reached where every feature equals its class vector and the class vectors form a simplex ETF, which needs
    d >= K - 1 dimensions; with fewer it is a lower bound.

    Args:
        num_classes: K, at least 2.
        scale: positive; it multiplies the cosines.

    Raises:
        ValueError: if either is out of range.

    Source: Yaras et al., NeurIPS 2022, the value at the global minimizers.

    >>> [round(attainable_loss(k, 1.0), 2) for k in (2, 10, 1000)]
    [0.13, 1.38, 5.91]
    """
    _check_classes(num_classes)
    _check_positive("scale", scale)
    exponent = math.log(num_classes - 1) - scale * num_classes / (num_classes - 1)
    return exponent + math.log1p(math.exp(-exponent)) if exponent > 0 else math.log1p(math.exp(exponent))


def scale_for_loss(num_classes: int, loss: float = DEFAULT_ATTAINABLE_LOSS) -> float:
    """Find the scale at which `attainable_loss` is `loss`: `(K - 1) / K * log((K - 1) / (e^loss - 1))`.

    This is the default of `NormalizedClassifier`, and grows like log K. A smaller scale keeps pulling on samples that
    are already classified correctly and separates the classes more evenly; a larger one lets them rest, as plain cross
    entropy does. Values between half and twice this one are worth a sweep.

    Args:
        num_classes: K, at least 2.
        loss: the floor, in (0, log K); at log K the scale would be 0.

    Raises:
        ValueError: if either is out of range.

    >>> [round(scale_for_loss(k), 1) for k in (2, 10, 100, 1000, 100_000)]
    [2.3, 6.1, 9.1, 11.5, 16.1]
    """
    _check_classes(num_classes)
    if not 0 < loss < math.log(num_classes):
        raise ValueError(
            f"`loss` must lie between 0 and log({num_classes}) = {math.log(num_classes):.3g}, the loss of guessing, "
            f"got {loss!r}; 0.01 suits most tasks"
        )
    return (num_classes - 1) / num_classes * (math.log(num_classes - 1) - math.log(math.expm1(loss)))


def _check_classes(num_classes: int) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"`num_classes` must be an integer of at least 2, got {num_classes!r}")


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a positive, finite number, got {value!r}")
