"""The theory of temperature and gap: the gradient flow with its closed forms, and a run on free features."""

from modality.theory.flow import (
    FlowPoint,
    inverse_temperature_on_flow,
    linear_schedule_rate,
    scheduled_flow,
    temperature_flow,
)
from modality.theory.synthetic import SyntheticPoint, synthetic_training, two_clusters

__all__ = [
    "FlowPoint",
    "SyntheticPoint",
    "inverse_temperature_on_flow",
    "linear_schedule_rate",
    "scheduled_flow",
    "synthetic_training",
    "temperature_flow",
    "two_clusters",
]
