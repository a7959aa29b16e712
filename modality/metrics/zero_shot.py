"""Zero-shot classification by the nearest class text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evaluation_hooks import check_same_order
from modality.metrics.ranking import BLOCK_ROWS, as_ids, check_ks, directions, rounding_of
from modality.rows import as_rows, products, unit_rows


@torch.no_grad()
def zero_shot_accuracy(
    features: Float[Tensor, "n d"],
    classes: Float[Tensor, "K d"] | Float[Tensor, "K templates d"],
    labels: Int[Tensor, " n"],
    ks: Sequence[int] = (1,),
    *,
    block_size: int = BLOCK_ROWS,
) -> dict[str, float]:
    """Compute the share of samples whose class is among the k nearest by cosine to the features of its text.

    Args:
        features: of the samples, any norm, as tensors, arrays of NumPy or lists.
        classes: one row for each class, or one for each of its texts ("a photo of a ...", "a drawing of a ..."), which
            are normalized, averaged and normalized again.
        labels: the number of each sample's class.
        ks: numbers of candidates, at most K.
        block_size: samples at a time.

    Returns:
        `accuracy@k` for each k, and `mean_class_accuracy`, the mean over the classes with samples of the accuracy at 1.
        Other classes with the same score count as nearer.

    Raises:
        TypeError, ValueError: for features that do not fit or are not finite, labels out of range, a k out of range.

    Source: Radford et al., ICML 2021, zero-shot transfer and prompt ensembling.

    >>> zero_shot_accuracy([[1.0, 0.1], [0.2, 1.0], [1.0, 0.3]], torch.eye(2), [0, 1, 1])
    {'accuracy@1': 0.6666666666666666, 'mean_class_accuracy': 0.75}
    """
    ks = check_ks(ks)
    check_same_order(features=features, labels=labels)
    rows, texts = as_rows(features), as_class_rows(classes)
    if not isinstance(rows, Tensor) or rows.dim() != 2 or rows.shape[1:] != texts.shape[1:] or len(rows) == 0:
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"zero-shot accuracy compares samples (n, d) with classes (K, d) or (K, templates, d), got {found} and "
            f"classes of {texts.shape[1]} features"
        )
    own = as_ids(labels, rows).long()
    if not 0 <= int(own.min()) <= int(own.max()) < len(texts) or max(ks) > len(texts):
        raise ValueError(
            f"there are {len(texts)} classes, so labels lie in [0, {len(texts)}) and k is at most that, got labels "
            f"{int(own.min())} to {int(own.max())} and ks {ks}; leave out samples without a class"
        )
    rows, texts = directions(rows.to(texts), texts, block_size)
    parts = zip(rows.split(block_size), own.split(block_size), strict=True)
    ranks = torch.cat([_ranks(products(part, texts.mT), its, rounding_of(texts)) for part, its in parts])
    right, own = (ranks == 0).double(), own.cpu()
    counts = own.bincount(minlength=len(texts))
    of_classes = right.new_zeros(len(texts)).index_add_(0, own, right)[counts > 0] / counts[counts > 0]
    return {f"accuracy@{k}": (ranks < k).double().mean().item() for k in ks} | {
        "mean_class_accuracy": of_classes.mean().item()
    }


def as_class_rows(classes: Any) -> Float[Tensor, "K d"]:
    """Return one row for each class, the direction of the mean of its texts if there are several.

    >>> as_class_rows(torch.tensor([[[3.0, 0.0], [0.0, 5.0]]]))
    tensor([[0.7071, 0.7071]])
    """
    rows = as_rows(classes)
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.dim() not in (2, 3) or 0 in rows.shape:
        found = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"`classes` must be features (K, d), one row for each class, or (K, templates, d), got {found}"
        )
    return unit_rows(rows) if rows.dim() == 2 else unit_rows(unit_rows(rows).mean(1))


def _ranks(scores: Float[Tensor, "b K"], own: Int[Tensor, " b"], rounding: float) -> Int[Tensor, " b"]:
    """Count the other classes that are at least as near; the counts are on the CPU."""
    return ((scores >= scores.gather(1, own[:, None]) - rounding).sum(1) - 1).cpu()
