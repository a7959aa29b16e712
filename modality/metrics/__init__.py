"""How far modalities lie apart, and how well one retrieves the other."""

from modality.metrics.callback import ModalityGapCallback
from modality.metrics.gap import linear_separability, mean_shift, modality_gap, pairwise_gaps, uniformity
from modality.metrics.ranking import search_metrics
from modality.metrics.retrieval import margin, recall_at_k
from modality.metrics.statistics import PairStatistics
from modality.metrics.zero_shot import zero_shot_accuracy

__all__ = [
    "ModalityGapCallback",
    "PairStatistics",
    "linear_separability",
    "margin",
    "mean_shift",
    "modality_gap",
    "pairwise_gaps",
    "recall_at_k",
    "search_metrics",
    "uniformity",
    "zero_shot_accuracy",
]
