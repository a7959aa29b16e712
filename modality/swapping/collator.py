"""`ModalitySwapCollator`: tells the model, in the batch, when to swap features."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from modality.swapping.swap import Per, SwapMode, SwapRule

SWAP_KEY = "modality_swap"


class ModalitySwapCollator:
    """Any collator, with the rule for swapping features added to its batches under the key `modality_swap`.

    `ContrastiveModel` and `DualEncoder` apply the rule in training only, with random numbers that depend on it and on
    the model's own count of training batches, which is part of its state dict. A collator cannot decide by itself: it
    is not called for batches that are skipped after a resume, workers copy it, prefetching runs ahead, and it knows
    neither the step nor what other processes decide. This way the decisions are the same on all processes, for any
    number of workers, and after a resume from any checkpoint of the whole model.

    Args:
        collator: list of samples -> mapping.
        mode: "hard", "soft" or "row"; see `swap_features`.
        probability: of swapping a batch or a sample.
        per: "step" decides for the whole batch of all ranks at once, "sample" for each row. With gradient accumulation
            every micro-batch is a batch of its own.
        seed: of the decisions.
        renormalize: put swapped rows back on the sphere.

    Raises:
        TypeError: for a collator that is not a function, or (when called) does not return a mapping.
        ValueError: for settings out of range.

    Source: Yaras et al., CPAL 2025, hard and soft swaps; their table 2 uses p = 1e-3 for "hard" and 5e-2 for "soft".

    >>> collate = ModalitySwapCollator(lambda samples: {"count": len(samples)}, "hard", 1e-3)
    >>> collate(["a", "b"])["modality_swap"].shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        collator: Callable[[Sequence[Any]], Any],
        mode: SwapMode,
        probability: float,
        *,
        per: Per = "step",
        seed: int = 0,
        renormalize: bool = False,
    ) -> None:
        if not callable(collator):
            raise TypeError(f"`collator` must be a function of a list of samples, got {type(collator).__name__}")
        self.collator = collator
        self.rule = SwapRule(mode, probability, per, seed, renormalize).checked()

    def __call__(self, samples: Sequence[Any]) -> Any:
        batch = self.collator(samples)
        if not isinstance(batch, MutableMapping):
            raise TypeError(
                f"the swap rule can only be added to batches that are mappings, such as {{'x': ..., 'y': ...}}; the "
                f"collator returned a {type(batch).__name__}"
            )
        if SWAP_KEY in batch:
            raise ValueError(f"the batch already has a {SWAP_KEY!r}; wrap the collator only once")
        batch[SWAP_KEY] = self.rule.encode(len(samples))
        return batch
