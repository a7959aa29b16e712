"""Contrastive losses: symmetric InfoNCE and the sigmoid loss, in tiles and over ranks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from modality.losses.gather import Group, gather_rows, world_size_of
from modality.losses.tiles import sum_in_tiles
from modality.rows import at_least_float32, check_pairs, same_ids, unit_rows

Duplicates = Literal["share", "exclude"]
Direction = Literal["both", "x_to_y", "y_to_x"]
RowLoss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]  # logits (m, n), own column (m,), positives -> (m,)


def duplicate_mask(ids: Shaped[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    """Tell which pairs show the same thing, `mask[i, j] = (ids[i] == ids[j])`; pass it as `positives`.

    An id of -1 stands for an unknown one: such a pair is a duplicate only of itself.

    >>> duplicate_mask(torch.tensor([7, 8, 7])).int()
    tensor([[1, 0, 1],
            [0, 1, 0],
            [1, 0, 1]], dtype=torch.int32)
    """
    if ids.dim() != 1 or ids.is_floating_point():
        raise ValueError(f"ids are one integer for each pair, got {ids.dtype} of shape {tuple(ids.shape)}")
    return same_ids(ids, ids).fill_diagonal_(True)


def contrastive_loss(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    inverse_temperature: float | Tensor,
    *,
    positives: Bool[Tensor, "n n"] | None = None,
    ids: Int[Tensor, " n"] | None = None,
    duplicates: Duplicates = "share",
    label_smoothing: float = 0.0,
    direction: Direction = "both",
    negatives: Float[Tensor, "m d"] | None = None,
    normalize: bool = True,
    gather: bool = False,
    group: Group = None,
    block_size: int | None = None,
) -> Float[Tensor, ""]:
    """Compute the symmetric InfoNCE loss, in float32 or better, also under autocast.

        (1 / 2n) sum_i [CE(M_{i,:}, i) + CE(M_{:,i}, i)]   with   M = inverse_temperature * x y^T

    Args:
        x, y: features; row i of one belongs to row i of the other.
        inverse_temperature: 1 / tau; a number, or what a `Temperature` returns.
        positives: True where x_i and y_j also show the same thing; the diagonal always counts.
        ids: the same as one integer for each pair, -1 if it is unknown; needs no n x n matrix, and works over ranks.
        duplicates: "share" spreads the target evenly over a row's positives; "exclude" leaves the other positives out
            of the row, so that they neither attract nor repel.
        label_smoothing: share of the target spread over all columns that take part, in [0, 1).
        direction: "x_to_y" contrasts only each x with all y, without the 1/2 ("y_to_x" the reverse).
        negatives: rows like y's that belong to no x (hard negatives) and push every x; on all ranks or on none.
        normalize: normalize the rows first; False if they are, or for a control without normalization.
        gather: contrast with the rows of all ranks of `group`. The value is then this rank's share, scaled so that the
            mean over ranks is the loss of the whole batch; the same holds for the gradient that DDP averages. A rank
            may hold no rows, but not all of them.
        block_size: rows handled at a time: memory O(block_size n) and not O(n^2). Not differentiable twice.

    Raises:
        TypeError, ValueError: for inputs that do not fit.

    Source: Radford et al., ICML 2021, figure 3; Yaras et al., CPAL 2025 (the symmetric loss).

    >>> round(contrastive_loss(torch.eye(4), torch.eye(4), 10.0).item(), 6)
    0.000136
    """
    _check_contrast(duplicates, label_smoothing, direction, negatives)

    def row_loss(logits: Tensor, own: Tensor, same: Tensor | None) -> Tensor:
        if same is None:
            return F.cross_entropy(logits, own, reduction="none", label_smoothing=label_smoothing)
        if duplicates == "exclude":
            return _excluding(logits, own, same, label_smoothing)
        return _sharing(logits, same, label_smoothing)

    check_pairs(x, y, may_be_empty=gather and world_size_of(group) > 1)
    with torch.autocast(x.device.type, enabled=False):
        batch = _batch(x, y, inverse_temperature, positives, ids, normalize, gather, group, negatives)
        ways = {"both": [batch, batch.swapped()], "x_to_y": [batch], "y_to_x": [batch.swapped()]}[direction]
        return torch.stack([_tiled(row_loss, way, block_size) for way in ways]).mean() * batch.share


def sigmoid_loss(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    inverse_temperature: float | Tensor,
    bias: float | Tensor,
    *,
    positives: Bool[Tensor, "n n"] | None = None,
    ids: Int[Tensor, " n"] | None = None,
    duplicates: Duplicates = "share",
    normalize: bool = True,
    gather: bool = False,
    group: Group = None,
    block_size: int | None = None,
) -> Float[Tensor, ""]:
    """Compute the pairwise sigmoid loss of SigLIP.

        -(1 / n) sum_ij log sigmoid(z_ij (inverse_temperature x_i . y_j + bias))

    `z_ij` is 1 for positives (i = j, and what `positives` or `ids` say), -1 for all others. With
    `duplicates="exclude"` positives other than i = j are left out of the sum. The other arguments, and the errors,
    are those of `contrastive_loss`. The source starts with 1 / tau = 10 and a bias of -10.

    Source: Zhai et al., ICCV 2023, the sigmoid loss.

    >>> round(sigmoid_loss(torch.eye(2), torch.eye(2), 10.0, -5.0).item(), 4)
    0.0134
    """
    check_duplicates(duplicates)

    def row_loss(logits: Tensor, own: Tensor, same: Tensor | None) -> Tensor:
        pulled, pushed = F.logsigmoid(logits), F.logsigmoid(-logits)
        column = own[:, None]
        if same is not None and duplicates == "exclude":
            others = torch.where(same, 0.0, pushed)
            return -pulled.gather(1, column)[:, 0] - others.sum(1)
        if same is not None:
            return -torch.where(same, pulled, pushed).sum(1)
        return (pushed.gather(1, column) - pulled.gather(1, column))[:, 0] - pushed.sum(1)

    check_pairs(x, y, may_be_empty=gather and world_size_of(group) > 1)
    with torch.autocast(x.device.type, enabled=False):
        batch = _batch(x, y, inverse_temperature, positives, ids, normalize, gather, group)
        return _tiled(row_loss, batch, block_size, bias) * batch.share


class _Batch(NamedTuple):
    """The rows of this rank (`queries_x`, `queries_y`) and those they are compared with."""

    queries_x: Float[Tensor, "own d"]
    keys_y: Float[Tensor, "total d"]
    queries_y: Float[Tensor, "own d"]
    keys_x: Float[Tensor, "total d"]
    inverse_temperature: float | Tensor
    offset: int
    share: float
    positives: Bool[Tensor, "n n"] | None
    ids: Int[Tensor, " total"] | None
    num_negatives: int = 0  # the last rows of `keys_y`

    def swapped(self) -> _Batch:
        """Return the batch in the other direction."""
        positives = None if self.positives is None else self.positives.mT
        return self._replace(
            queries_x=self.queries_y, keys_y=self.keys_x, queries_y=self.queries_x, keys_x=self.keys_y,
            positives=positives, num_negatives=0,
        )  # fmt: skip

    def same(self, rows: slice, own: Int[Tensor, " m"]) -> Bool[Tensor, "m total"] | None:
        """Return the positives of some rows; None if there are no duplicates."""
        if self.positives is not None:
            mask = self.positives[rows].clone()
        elif self.ids is not None:
            mask = same_ids(self.ids[own], self.ids)
        else:
            return None
        return F.pad(mask.scatter_(1, own[:, None], True), (0, self.num_negatives))


def _batch(
    x: Tensor,
    y: Tensor,
    inverse_temperature: float | Tensor,
    positives: Tensor | None,
    ids: Tensor | None,
    normalize: bool,
    gather: bool,
    group: Group,
    negatives: Tensor | None = None,
) -> _Batch:
    _check_scale(inverse_temperature)
    _check_duplicates(len(x), positives, ids, gather)
    x, y = (unit_rows(x), unit_rows(y)) if normalize else (at_least_float32(x), at_least_float32(y))
    ids = None if ids is None else ids.to(x.device)
    negatives = y[:0] if negatives is None else _checked_negatives(negatives, y, normalize, gather, group)
    if not gather:
        keys_y = torch.cat([y, negatives]) if len(negatives) else y
        return _Batch(x, keys_y, y, x, inverse_temperature, 0, 1 / len(x), positives, ids, len(negatives))
    # One collective for both modalities.
    gathered = gather_rows(torch.cat([x, y], dim=1), group=group)
    keys_x, keys_y = gathered.rows.split(x.shape[1], dim=1)
    all_ids = None if ids is None else gather_rows(ids, group=group).rows
    if len(gathered.rows) == 0:
        raise ValueError("there is no pair on any rank; a contrastive loss needs rows on at least one of them")
    share = gathered.world_size / len(gathered.rows)
    keys_y = torch.cat([keys_y, negatives]) if len(negatives) else keys_y
    return _Batch(x, keys_y, y, keys_x, inverse_temperature, gathered.offset, share, None, all_ids, len(negatives))


def _checked_negatives(
    negatives: Tensor, y: Tensor, normalize: bool, gather: bool, group: Group
) -> Float[Tensor, "m d"]:
    if not isinstance(negatives, Tensor) or negatives.dim() != 2 or negatives.shape[1:] != y.shape[1:]:
        found = tuple(negatives.shape) if isinstance(negatives, Tensor) else type(negatives).__name__
        raise ValueError(f"`negatives` must be rows like those of y, (m, {y.shape[1]}), got {found}")
    rows = unit_rows(negatives) if normalize else at_least_float32(negatives)
    return gather_rows(rows.to(y), group=group).rows if gather else rows.to(y)


def _tiled(
    row_loss: RowLoss, batch: _Batch, block_size: int | None, bias: float | Tensor | None = None
) -> Float[Tensor, ""]:
    """Sum the row losses of `queries_x` against `keys_y`, a tile of rows at a time."""

    def tile(start: int, queries: Tensor, keys: Tensor, scale: float | Tensor, bias: float | Tensor | None) -> Tensor:
        own = torch.arange(start, start + len(queries), device=queries.device) + batch.offset
        logits = (scale * queries) @ keys.mT
        logits = logits if bias is None else logits + bias
        return row_loss(logits, own, batch.same(slice(start, start + len(queries)), own)).sum()

    return sum_in_tiles(tile, batch.queries_x, (batch.keys_y, batch.inverse_temperature, bias), block_size)


def _sharing(logits: Tensor, same: Tensor, smoothing: float) -> Tensor:
    log_p = logits.log_softmax(1)
    target = torch.where(same, log_p, 0.0).sum(1) / same.sum(1)
    return -(1 - smoothing) * target - smoothing * log_p.mean(1)


def _excluding(logits: Tensor, own: Tensor, same: Tensor, smoothing: float) -> Tensor:
    others = same.scatter(1, own[:, None], False)
    log_p = logits.masked_fill(others, -math.inf).log_softmax(1)
    target = log_p.gather(1, own[:, None])[:, 0]
    return -(1 - smoothing) * target - smoothing * torch.where(others, 0.0, log_p).sum(1) / (~others).sum(1)


def check_duplicates(duplicates: str) -> None:
    """Raise unless this is a way to treat duplicates."""
    if duplicates not in get_args(Duplicates):
        raise ValueError(f"`duplicates` must be 'share' or 'exclude', got {duplicates!r}")


def _check_contrast(duplicates: str, label_smoothing: float, direction: str, negatives: Tensor | None) -> None:
    check_duplicates(duplicates)
    if isinstance(label_smoothing, bool) or not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing!r}")
    check_direction(direction, negatives is not None)


def check_direction(direction: str, has_negatives: bool = False) -> None:
    """Raise unless this is a direction of the loss, in which negatives take part."""
    if direction not in get_args(Direction):
        raise ValueError(f"`direction` must be 'both', 'x_to_y' or 'y_to_x', got {direction!r}")
    if has_negatives and direction == "y_to_x":
        raise ValueError("`negatives` are rows of y, which the direction 'y_to_x' does not contrast with; swap x and y")


def _check_scale(inverse_temperature: float | Tensor) -> None:
    if isinstance(inverse_temperature, Tensor):
        if inverse_temperature.numel() != 1:
            raise ValueError(
                f"the inverse temperature is one number for all pairs, got shape {tuple(inverse_temperature.shape)}"
            )
    elif isinstance(inverse_temperature, bool) or not 0 < inverse_temperature < math.inf:
        raise ValueError(
            f"the inverse temperature 1 / tau must be positive and finite, got {inverse_temperature!r}; CLIP's is 14 "
            "at the start and at most 100"
        )
    elif inverse_temperature < 1:
        warnings.warn(
            f"an inverse temperature of {inverse_temperature} multiplies the cosines, which makes all pairs alike; for "
            f"a tau of this value pass 1 / tau, {1 / inverse_temperature:.4g}",
            stacklevel=4,
        )


def _check_duplicates(count: int, positives: Tensor | None, ids: Tensor | None, gather: bool) -> None:
    if positives is not None and (ids is not None or gather):
        raise ValueError("duplicates are given by `positives` or by `ids`, and over ranks (`gather=True`) by `ids`")
    if positives is not None and (positives.dtype != torch.bool or positives.shape != (count, count)):
        raise ValueError(
            f"`positives` must be a boolean ({count}, {count}) matrix, got {positives.dtype} of shape "
            f"{tuple(positives.shape)}; see `duplicate_mask`"
        )
    if ids is not None and (ids.shape != (count,) or ids.is_floating_point()):
        raise ValueError(f"`ids` must be {count} integers, one for each pair, got {ids.dtype} {tuple(ids.shape)}")
