"""Close the modality gap of contrastive models: losses, temperatures, swapping, metrics and models for Trainer."""

from modality.callback import TemperatureScheduleCallback
from modality.chunks import encode_in_chunks
from modality.collator import ModalitySwapCollator
from modality.contrastive_model import ContrastiveModel
from modality.dual_encoder import DualEncoder
from modality.gather import gather_features
from modality.logit_scale import find_temperature, reparameterize_logit_scale_
from modality.loss import contrastive_loss, duplicate_mask, sigmoid_loss
from modality.metrics import linear_separability, mean_shift, modality_gap, uniformity
from modality.objective import ContrastiveObjective
from modality.output import ContrastiveOutput
from modality.parameter_groups import temperature_parameter_groups
from modality.retrieval import margin, recall_at_k
from modality.schedules import ConstantSchedule, CosineAlternation, LinearSchedule, PiecewiseSchedule
from modality.statistics import PairStatistics
from modality.swap import swap_features
from modality.temperature import Temperature

__all__ = [
    "ConstantSchedule",
    "ContrastiveModel",
    "ContrastiveObjective",
    "ContrastiveOutput",
    "CosineAlternation",
    "DualEncoder",
    "LinearSchedule",
    "ModalitySwapCollator",
    "PairStatistics",
    "PiecewiseSchedule",
    "Temperature",
    "TemperatureScheduleCallback",
    "contrastive_loss",
    "duplicate_mask",
    "encode_in_chunks",
    "find_temperature",
    "gather_features",
    "linear_separability",
    "margin",
    "mean_shift",
    "modality_gap",
    "recall_at_k",
    "reparameterize_logit_scale_",
    "sigmoid_loss",
    "swap_features",
    "temperature_parameter_groups",
    "uniformity",
]
