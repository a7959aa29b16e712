"""`TemperatureScheduleCallback`: a temperature that follows the progress of a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modality.temperature.finding import TemperatureHandle, find_temperature
from modality.temperature.schedules import Schedule, temperature_at


class TemperatureScheduleCallback(TrainerCallback):
    """Set tau to `schedule(global_step / max_steps)` before every optimizer step.

    The value depends only on the step, so a resumed run has the same temperatures, bit for bit. The callback drives the
    `Temperature` module of the model, or its `logit_scale` (see `find_temperature`), inside PEFT and DDP as well. The
    temperature is frozen before the optimizer is created if the callback is passed to the Trainer's constructor. `tau`
    is in every entry of the log (`state.log_history`, what is printed, and what later callbacks report); pass `trainer`
    to send it to every reporter instead:

        trainer.add_callback(TemperatureScheduleCallback(LinearSchedule(0.01, 0.05), trainer=trainer))

    Args:
        schedule: from progress in [0, 1) to tau; see `LinearSchedule`, or any function.
        parameter: the end of the temperature's name, if a model has several; or the ends of all that follow the
            schedule together, such as CLAP's `["logit_scale_a", "logit_scale_t"]`.
        trainer: the Trainer to log through.
        module: where the temperature is, if not in the Trainer's model: a loss of sentence-transformers.

    Raises:
        TypeError: for a schedule that cannot be called.
        ValueError: at the start of training if there is no temperature, or more than one.

    Source: Yaras et al., CPAL 2025, temperature scheduling, by steps here and by epochs there.

    >>> from modality.temperature.schedules import LinearSchedule
    >>> isinstance(TemperatureScheduleCallback(LinearSchedule(0.01, 0.05)), TrainerCallback)
    True
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        parameter: str | Sequence[str] | None = None,
        trainer: Trainer | None = None,
        module: nn.Module | None = None,
    ) -> None:
        if not callable(schedule):
            raise TypeError(f"a schedule must be a function of the progress of training, got {type(schedule).__name__}")
        self.schedule, self.trainer, self.module = schedule, trainer, module
        self.names: Sequence[str | None] = [parameter] if parameter is None or isinstance(parameter, str) else parameter
        if not self.names:
            raise ValueError("`parameter` names no temperature; leave it out if the model has one")
        self._temperatures: list[TemperatureHandle] = []

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            self._find(model)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        self._temperatures = self._find(model)  # once, because searching a model takes a while

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for temperature in self._temperatures:
            temperature.set_tau(temperature_at(self.schedule, state.global_step / state.max_steps))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._temperatures and self.trainer is not None and control.should_log:
            self.trainer.log({"tau": self._temperatures[0].tau()})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._temperatures and self.trainer is None and logs is not None and "loss" in logs:
            logs["tau"] = state.log_history[-1]["tau"] = self._temperatures[0].tau()

    def _find(self, model: nn.Module) -> list[TemperatureHandle]:
        """Find and freeze the temperatures."""
        holder = model if self.module is None else self.module
        found = [find_temperature(holder, name) for name in self.names]
        for temperature in found:
            temperature.freeze()
        return found
