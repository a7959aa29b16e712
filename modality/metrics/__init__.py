"""How far two modalities lie apart, and how well one retrieves the other."""

from modality.metrics.callback import ModalityGapCallback
from modality.metrics.gap import linear_separability, mean_shift, modality_gap, uniformity
from modality.metrics.retrieval import margin, recall_at_k
from modality.metrics.statistics import PairStatistics

__all__ = [
    "ModalityGapCallback",
    "PairStatistics",
    "linear_separability",
    "margin",
    "mean_shift",
    "modality_gap",
    "recall_at_k",
    "uniformity",
]
