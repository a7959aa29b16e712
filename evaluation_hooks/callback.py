"""`EvaluationCallback`: metrics of what an observer saw, in the log of a Trainer."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evaluation_hooks.batches import valid_rows
from evaluation_hooks.observer import Observer
from evaluation_hooks.states import random_states_kept


class EvaluationCallback(TrainerCallback, ABC):
    """Log metrics of a Trainer's model beside its loss.

    With `piggyback` the observer listens while the Trainer evaluates, at no extra pass; during training the hooks stay
    on the model, and an evaluation outside of training costs one more pass over its data. With `loaders`, one pass over
    each is added after every evaluation, or after every epoch where the Trainer does not evaluate. Such a pass leaves
    the mode of the model, the hooks and all random states as they were.

    A subclass sets `observer` after this constructor and says what is measured: `measure`, `skipped`, and the two
    texts below.

    Args:
        trainer: the Trainer to log through.
        loaders: name -> plain DataLoader; the Trainer's accelerator shards the batches and moves them.
        piggyback: listen to the Trainer's own evaluations.

    Attributes:
        latest: the last metrics, by name.

    Raises:
        TypeError, ValueError: without a Trainer, or with nothing to measure.
    """

    subject: ClassVar[str]
    """What is measured, as warnings call it."""
    nothing_seen: ClassVar[str]
    """Why there are no metrics, up to the name of the model's class."""
    observer: Observer

    def __init__(self, trainer: Trainer, loaders: Mapping[str, DataLoader] | None, *, piggyback: bool) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"the callback logs through a Trainer, got a {type(trainer).__name__}; create the Trainer first, then "
                f"call `trainer.add_callback({type(self).__name__}(trainer))`"
            )
        if not piggyback and not loaders:
            raise ValueError("without `loaders` and with `piggyback=False` there is nothing to measure; pass `loaders`")
        self.trainer, self.piggyback = trainer, piggyback
        self._loaders, self._prepared = dict(loaders or {}), False
        self._told: set[str] = set()
        self.latest: dict[str, float] = {}

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Compute the metrics of what the observers of all processes saw, or nothing if that is too little.

        Raises:
            ValueError: if the metrics are not defined for it; the text becomes a warning.
        """

    @abstractmethod
    def skipped(self) -> list[str]:
        """Tell what the observer left out, and why, in one text per reason."""

    def valid_rows(self, rows: int) -> int:
        """Count the rows of this process's current batch that are not repeats."""
        return valid_rows(self.trainer.accelerator, rows)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.observer.point_at(self.trainer.model)
        self.observer.attach()
        self.observer.start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.observer.stop()
        self.observer.detach()

    def on_predict(self, *args: Any, **kwargs: Any) -> None:
        self.observer.start()  # predictions are not part of the next evaluation

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        found: dict[str, float] = {}
        if self.piggyback:
            if not self.observer.observes(self.trainer.model):
                self._run(eval_dataloader)
            found = self._named_metrics(evaluation_prefix(metrics or {}))
        self._report(found | self._measure_loaders(), metrics)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.eval_strategy == "no":
            self._report(self._measure_loaders(), None)

    def _report(self, found: dict[str, float], metrics: dict[str, float] | None) -> None:
        self.observer.start()  # for the next evaluation, and so that nothing is kept until then
        if not found:
            return
        self.latest = dict(found)
        if metrics is not None:
            metrics.update(found)
        self.trainer.log(dict(found))

    def _measure_loaders(self) -> dict[str, float]:
        if not self._prepared:
            prepare = self.trainer.accelerator.prepare_data_loader
            self._loaders, self._prepared = {name: prepare(loader) for name, loader in self._loaders.items()}, True
        found: dict[str, float] = {}
        for name, loader in self._loaders.items():
            self._run(loader)
            found |= self._named_metrics(name)
        return found

    def _run(self, loader: Any) -> None:
        """Pass over a loader in evaluation mode; the observer collects this pass and nothing after it."""
        model, was_attached = self.trainer.model, self.observer.attached
        was_training = model.training
        self.observer.point_at(model)
        self.observer.attach()
        self.observer.start()
        model.eval()
        try:
            with random_states_kept(), torch.no_grad(), self.trainer.compute_loss_context_manager():
                for batch in loader:
                    model(**batch)
        finally:
            model.train(was_training)
            self.observer.stop()
            if not was_attached:
                self.observer.detach()

    def _named_metrics(self, prefix: str) -> dict[str, float]:
        """Metrics under a prefix; none, with a warning, where they have no meaning."""
        skipped = self.skipped()
        for text in skipped:
            self._warn(prefix, text)
        try:
            found = self.measure()
        except ValueError as error:
            self._warn(prefix, f"nothing was logged: {error}")
            return {}
        if not found and not skipped and prefix not in self._told:
            self._told.add(prefix)
            self._warn(
                prefix,
                f"nothing was logged because {self.nothing_seen} ({type(self.trainer.model).__name__}). Is the set "
                "empty, or does something else evaluate? Then pass `loaders`",
            )
        return {f"{prefix}_{name}": value for name, value in found.items()}

    def _warn(self, prefix: str, text: str) -> None:
        warnings.warn(f"{self.subject} of {prefix!r}: {text}", stacklevel=3)


def evaluation_prefix(metrics: Mapping[str, float]) -> str:
    """`eval` of `eval_runtime`, which every evaluation of a Trainer reports; several evaluation sets have their own."""
    return next((name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")), "eval")
