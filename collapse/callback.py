"""`NeuralCollapseCallback`: the metrics in the log of a Trainer, beside the loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from collapse.metrics import neural_collapse
from collapse.observer import HeadObserver
from collapse.statistics import Within


class NeuralCollapseCallback(TrainerCallback):
    """Logs NC1 to NC4, CDNV and the spread of feature norms of a Trainer's classifier.

    Without `loaders` it listens while the Trainer evaluates, at no extra pass: `eval_nc1`, ... appear in the log beside
    `eval_loss` (TensorBoard, trackio, W&B, `state.log_history`), and in what `evaluate` returns, so that
    `metric_for_best_model="eval_nc1"` works. With `loaders`, one pass over each is added after every evaluation, or
    after every epoch where the Trainer does not evaluate: `train_nc1`, .... Under several processes each takes its
    share, samples that were repeated to even out the last batch do not count, and all log the same values. It holds no
    state, so a resumed run logs what an uninterrupted one does. The hooks are on the model during training only: an
    `evaluate` outside of it costs one more pass over its data. What is measured is the model that the Trainer has at
    the time, such as the one that `model_init` made for the run.

        callback = NeuralCollapseCallback(trainer, {"train": DataLoader(probe, batch_size=256, collate_fn=collator)})
        trainer.add_callback(callback)

    Args:
        trainer: the Trainer to log through; its model needs a classification head (see `find_head`).
        loaders: name -> plain DataLoader of labelled batches; the Trainer's accelerator shards and moves them.
        piggyback: listen to the Trainer's own evaluations.
        head: see `find_head`.
        within: see `ClassStatistics`; "trace" saves the d x d matrix and logs the quotient for NC1.
        centre_samples: rows kept on each process for NC4; 0 leaves it out.
        options: further keyword arguments of `neural_collapse`.

    Attributes:
        latest: the last metrics, by name.

    Raises:
        TypeError, ValueError: without a Trainer, with nothing to measure, or for a model whose head is not found.
    """

    def __init__(
        self,
        trainer: Trainer,
        loaders: Mapping[str, DataLoader] | None = None,
        *,
        piggyback: bool = True,
        head: str | None = None,
        within: Within = "full",
        centre_samples: int = 4096,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"the callback logs through a Trainer, got a {type(trainer).__name__}; make the Trainer first, then "
                "`trainer.add_callback(NeuralCollapseCallback(trainer))`"
            )
        if not piggyback and not loaders:
            raise ValueError("without `loaders` and with `piggyback=False` there is nothing to measure; pass one")
        self.trainer, self.piggyback = trainer, piggyback
        self._loaders, self._prepared = dict(loaders or {}), False
        self._options = dict(options or {})
        self._observer = HeadObserver(
            trainer.model, head, within=within, centre_samples=centre_samples, valid_rows=self._valid_rows
        )
        self._observer.stop()
        self._unobserved: set[str] = set()
        self.latest: dict[str, float] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._observer.point_at(self.trainer.model)
        self._observer.attach()
        self._observer.start()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._observer.stop()
        self._observer.detach()

    def on_predict(self, *args: Any, **kwargs: Any) -> None:
        self._observer.start()  # what was predicted is not part of the next evaluation

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
            if not self._observer.observes(self.trainer.model):
                self._run(eval_dataloader)
            found = self._metrics(_prefix(metrics or {}))
        self._report(found | self._measure_loaders(), metrics)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.eval_strategy == "no":
            self._report(self._measure_loaders(), None)

    def _report(self, found: dict[str, float], metrics: dict[str, float] | None) -> None:
        if self._observer.attached:
            self._observer.start()
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
            found |= self._metrics(name)
        return found

    def _run(self, loader: Any) -> None:
        """One pass in evaluation mode that leaves hooks, mode and random states as they were."""
        model, was_attached = self.trainer.model, self._observer.attached
        was_training = model.training
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        self._observer.point_at(model)
        self._observer.attach()
        self._observer.start()
        model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad(), self.trainer.compute_loss_context_manager():
                for batch in loader:
                    model(**batch)
        finally:
            model.train(was_training)
            self._observer.stop()
            if not was_attached:
                self._observer.detach()

    def _metrics(self, prefix: str) -> dict[str, float]:
        """Metrics of what was observed on all processes; none, with a warning, where they have no meaning."""
        observer = self._observer
        statistics = observer.statistics.reduce()
        for count, reason in (
            (
                observer.unlabelled,
                "came without labels (label smoothing and `compute_loss_func` take them; use `loaders`)",
            ),
            (observer.not_finite, "had NaN or inf in the features"),
        ):
            if count:
                warnings.warn(f"neural collapse of {prefix!r}: {count} batches {reason}", stacklevel=2)
        if statistics.num_samples == 0:
            self._warn_of_nothing(prefix)
            return {}
        try:
            found = neural_collapse(statistics, observer.class_vectors(), **self._options)
        except ValueError as error:
            warnings.warn(f"neural collapse of {prefix!r} is left out: {error}", stacklevel=2)
            return {}
        if observer.centre_samples:
            found["nc4"] = _weighted_mean(*observer.centre_agreement(statistics), statistics.means.device)
        return {f"{prefix}_{name}": value for name, value in found.items()}

    def _warn_of_nothing(self, prefix: str) -> None:
        """Once for each set, unless batches that were left out have been told of."""
        if self._observer.unlabelled or self._observer.not_finite or prefix in self._unobserved:
            return
        self._unobserved.add(prefix)
        warnings.warn(
            f"neural collapse of {prefix!r}: nothing is logged, for no labelled sample went through the head of the "
            f"Trainer's model, a {type(self.trainer.model).__name__}; is the set empty, or does something else "
            "evaluate? Then pass `loaders`",
            stacklevel=3,
        )

    def _valid_rows(self, rows: int) -> int:
        """Rows of this process's batch that are not repeats, by the rule of `accelerator.gather_for_metrics`."""
        accelerator = self.trainer.accelerator
        state = accelerator.gradient_state
        if not (state.in_dataloader and state.end_of_dataloader) or state.remainder <= 0:
            return rows
        return max(0, min(rows, state.remainder - accelerator.process_index * rows))


def _prefix(metrics: Mapping[str, float]) -> str:
    """`eval` of `eval_runtime`, which every evaluation of a Trainer reports; several evaluation sets have their own."""
    return next((name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")), "eval")


def _weighted_mean(value: float, weight: int, device: torch.device) -> float:
    """The mean over all processes."""
    sums = torch.tensor([value * weight, weight], dtype=torch.float64, device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return (sums[0] / sums[1].clamp(min=1)).item()
