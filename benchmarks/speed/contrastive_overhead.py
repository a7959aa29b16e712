"""What the callbacks, the collator and the metrics of `modality` add to training and evaluating a CLIP model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.speed.measuring import compared, interleaved_seconds
from modality import (
    ContrastiveModel,
    LinearSchedule,
    ModalityGapCallback,
    ModalitySwapCollator,
    Temperature,
    TemperatureScheduleCallback,
)


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Time whole trainings and evaluations with and without, in turn, and the seconds inside our own methods.

    The ratio of whole runs carries the noise of the machine; the share is what our methods took of the same run.
    """
    torch.manual_seed(settings["seed"])
    trainers = {name: _trainer(settings, ours=name == "ours") for name in ("plain", "ours")}
    measured: dict[str, Any] = {}
    for phase, count in (("training step", settings["steps"]), ("evaluation", 1)):
        charged = _Charged()
        if phase == "evaluation":  # as within training: listening, with no pass of its own
            trainers["ours"].callback_handler.callbacks[-1].on_train_begin()
        with_charge = charged.to(trainers["ours"])
        functions = {name: _phase(trainer, phase) for name, trainer in trainers.items()}
        seconds = interleaved_seconds(functions, settings["repeats"], settings["warmup"], settings["seed"])
        with_charge()
        runs = settings["repeats"] + settings["warmup"]
        of_one = {name: [value / count for value in values] for name, values in seconds.items()}
        measured[phase] = {
            "runs": compared(of_one, "plain"),
            "seconds_in_our_methods": charged.seconds / runs / count,
            "share": charged.seconds / runs / count / (sum(of_one["plain"]) / settings["repeats"]),
        }
    return measured


def _trainer(settings: dict[str, Any], *, ours: bool) -> Trainer:
    clip = CLIPModel(CLIPConfig(**settings["clip"]))
    collator: Any = ModalitySwapCollator(default_data_collator, "hard", probability=1e-3) if ours else None
    temperature = Temperature(0.01, mode="scheduled") if ours else Temperature(0.01, mode="exp")
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=settings["batch"], max_steps=settings["steps"], use_cpu=True,
        per_device_eval_batch_size=settings["batch"], report_to="none", save_strategy="no", disable_tqdm=True,
        logging_strategy="no", dataloader_num_workers=0,
    )  # fmt: skip
    trainer = Trainer(
        ContrastiveModel(clip, temperature=temperature), arguments, data_collator=collator or default_data_collator,
        train_dataset=_Pairs(settings, settings["batch"] * settings["steps"]),
        eval_dataset=_Pairs(settings, settings["evaluated_pairs"]),
    )  # fmt: skip
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if ours:
        trainer.add_callback(TemperatureScheduleCallback(LinearSchedule(0.01, 0.05), trainer=trainer))
        trainer.add_callback(ModalityGapCallback(trainer))
    return trainer


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, settings: dict[str, Any], count: int) -> None:
        self.count, text, image = count, settings["clip"]["text_config"], settings["clip"]["vision_config"]
        self.image = torch.randn(3, image["image_size"], image["image_size"])
        self.tokens = torch.randint(3, text["vocab_size"], (count, settings["tokens"]))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.image, "input_ids": self.tokens[index]}


def _phase(trainer: Trainer, phase: str) -> Callable[[], Any]:
    return trainer.train if phase == "training step" else trainer.evaluate


class _Charged:
    """Seconds inside the methods through which Trainer calls us."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def to(self, trainer: Trainer) -> Callable[[], None]:
        """Start to charge; the returned function ends it."""
        schedule, gap = trainer.callback_handler.callbacks[-2:]
        collator = trainer.data_collator
        inner, collator.collator = collator.collator, self._discounted(collator.collator)
        changed = [(schedule, name) for name in ("on_step_begin", "on_step_end", "on_log")]
        changed += [(gap, "on_evaluate"), (gap._observer, "take"), (trainer, "data_collator")]
        originals = [getattr(owner, name) for owner, name in changed]
        for (owner, name), original in zip(changed, originals, strict=True):
            setattr(owner, name, self._charged(original))

        def end() -> None:
            collator.collator = inner
            for (owner, name), original in zip(changed, originals, strict=True):
                setattr(owner, name, original)

        return end

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._timed(function, 1)

    def _discounted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._timed(function, -1)

    def _timed(self, function: Callable[..., Any], sign: int) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += sign * (time.perf_counter() - start)

        return timed
