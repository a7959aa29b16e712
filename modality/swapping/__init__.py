"""Features exchanged between modalities during training: the rule, how it travels in a batch, and the exchange."""

from modality.swapping.collator import ModalitySwapCollator
from modality.swapping.swap import Per, SwapMode, swap_features

__all__ = ["ModalitySwapCollator", "Per", "SwapMode", "swap_features"]
