"""Exchanging features between modalities: the decision, and what is done."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modality.rows import check_pairs, unit_rows

SwapMode = Literal["hard", "soft", "row"]
Per = Literal["step", "sample"]
PROBABILITY_UNIT = 2**32  # probabilities travel as integers, which every device and every collation leaves alone


def swap_features(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n d"],
    mode: SwapMode,
    generator: torch.Generator | int | None = None,
    *,
    rows: Bool[Tensor, " n"] | None = None,
    renormalize: bool = False,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Exchange parts of the features of both modalities; gradients flow back to where the features came from.

    - "hard" (HS): every entry (i, j) is exchanged independently with probability 1/2.
    - "soft" (SS): `x <- l x + (1 - l) y` and `y <- l y + (1 - l) x` from the old values, with l uniform in [0, 1],
      independently for each entry.
    - "row": whole rows are exchanged.

    Args:
        x, y: normalized features.
        mode: see above.
        generator: of the random numbers, or a seed; on the CPU, so that they are the same on every device.
        rows: exchange in these rows only; all by default.
        renormalize: normalize the rows again; "hard" and "soft" move them off the sphere. The source does not mention
            it.

    Raises:
        ValueError: for another mode, or features that are not pairs.

    Source: Yaras et al., CPAL 2025, hard and soft swaps. That l is uniform is our reading.

    >>> x, y = swap_features(torch.ones(1, 2), torch.zeros(1, 2), "row")
    >>> x.tolist(), y.tolist()
    ([[0.0, 0.0]], [[1.0, 1.0]])
    """
    check_pairs(x, y)
    if mode not in get_args(SwapMode):
        raise ValueError(f"`mode` must be 'hard', 'soft' or 'row', got {mode!r}")
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    kept = _kept_share(x, mode, generator)
    if rows is not None:
        kept = torch.where(rows.to(x.device)[:, None], kept, 1.0)
    swapped_x, swapped_y = kept * x + (1 - kept) * y, kept * y + (1 - kept) * x
    return (unit_rows(swapped_x), unit_rows(swapped_y)) if renormalize else (swapped_x, swapped_y)


def _kept_share(x: Tensor, mode: SwapMode, generator: torch.Generator | None) -> Tensor:
    if mode == "row":
        return x.new_zeros(len(x), 1)
    share = torch.rand(x.shape, generator=generator, dtype=torch.float32)
    return (share < 0.5 if mode == "hard" else share).to(x)


class SwapRule(NamedTuple):
    """When to swap and how; travels in a batch as one row of integers for each sample."""

    mode: SwapMode
    probability: float
    per: Per = "step"
    seed: int = 0
    renormalize: bool = False

    def checked(self) -> SwapRule:
        """Return the rule itself if it is valid.

        Raises:
            ValueError: for an unknown mode or unit, or a probability or seed out of range.
        """
        if self.mode not in get_args(SwapMode):
            raise ValueError(f"`mode` must be 'hard', 'soft' or 'row', got {self.mode!r}")
        if self.per not in get_args(Per):
            raise ValueError(f"`per` must be 'step' or 'sample', got {self.per!r}")
        number = isinstance(self.probability, (int, float)) and not isinstance(self.probability, bool)
        if not number or not 0 <= self.probability <= 1:
            raise ValueError(f"`probability` must lie in [0, 1], got {self.probability!r}; the paper uses 1e-3 to 5e-2")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be an integer of at least 0, got {self.seed!r}")
        return self

    def encode(self, count: int) -> Int[Tensor, "count 5"]:
        """Encode the rule once for each sample, so that it can be split along the batch like any other tensor."""
        codes = (
            get_args(SwapMode).index(self.mode), round(self.probability * PROBABILITY_UNIT),
            get_args(Per).index(self.per), self.seed, int(self.renormalize),
        )  # fmt: skip
        return torch.tensor(codes).expand(count, -1).contiguous()

    @classmethod
    def decode(cls, encoded: Int[Tensor, "count 5"]) -> SwapRule:
        """Read the rule of a batch.

        Raises:
            ValueError: for a tensor that `encode` did not make.
        """
        if encoded.dim() != 2 or encoded.shape[1] != 5 or len(encoded) == 0 or encoded.is_floating_point():
            raise ValueError(
                f"`modality_swap` must be what `ModalitySwapCollator` puts into a batch, integers of shape (n, 5), got "
                f"{encoded.dtype} of shape {tuple(encoded.shape)}"
            )
        mode, probability, per, seed, renormalize = encoded[0].tolist()
        modes, units = get_args(SwapMode), get_args(Per)
        return cls(modes[mode], probability / PROBABILITY_UNIT, units[per], seed, bool(renormalize))


def apply_swap(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], rule: SwapRule, step: int, rank: int = 0
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Call `swap_features` if the rule says so for this step, which depends only on its seed, the step and the rank.

    With `per="step"` all ranks make the same decision, from (seed, step); with "sample" there is one for each row. What
    is exchanged is drawn from (seed, step, rank). A resumed run that knows its step therefore draws what an
    uninterrupted one draws.

    Args:
        x, y: this rank's normalized features.
        rule: from the batch.
        step: how many batches came before.
        rank: of this process.

    Source: Yaras et al., CPAL 2025, which swaps "on a random portion"; "step" is the natural reading.

    >>> x, y = apply_swap(torch.ones(1, 2), torch.zeros(1, 2), SwapRule("row", 1.0), step=3)
    >>> x.tolist()
    [[0.0, 0.0]]
    """
    if rule.per == "step":
        if not _decided(1, rule, _generator(rule.seed, step, "decision")).item():
            return x, y
        rows = None
    else:
        rows = _decided(len(x), rule, _generator(rule.seed, step, f"decision {rank}"))
        if not rows.any():
            return x, y
    entries = _generator(rule.seed, step, f"entries {rank}")
    return swap_features(x, y, rule.mode, entries, rows=rows, renormalize=rule.renormalize)


def _decided(count: int, rule: SwapRule, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64) < rule.probability


def _generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """Make unrelated random streams for neighboring seeds, steps and ranks."""
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
