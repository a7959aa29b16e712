"""The temperature of the logits: fixed, learned in several ways, or driven by a schedule, in any model."""

from modality.temperature.callback import TemperatureScheduleCallback
from modality.temperature.finding import (
    base_model_of,
    find_temperature,
    learned_temperatures,
    temperature_parameter_groups,
)
from modality.temperature.logit_scale import reparameterize_logit_scale_
from modality.temperature.module import Temperature
from modality.temperature.schedules import (
    ConstantSchedule,
    CosineAlternation,
    LinearSchedule,
    PiecewiseSchedule,
    Schedule,
)

__all__ = [
    "ConstantSchedule",
    "CosineAlternation",
    "LinearSchedule",
    "PiecewiseSchedule",
    "Schedule",
    "Temperature",
    "TemperatureScheduleCallback",
    "base_model_of",
    "find_temperature",
    "learned_temperatures",
    "reparameterize_logit_scale_",
    "temperature_parameter_groups",
]
