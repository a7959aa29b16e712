"""`ModalityGapCallback`: the metrics of the modality gap in the log of a Trainer, beside the loss."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modality.metrics.observer import PairObserver


class ModalityGapCallback(TrainerCallback):
    """Logs gap, alignment, uniformity, separability, effective rank, margin and recall of a Trainer's model.

    Without `loaders` it listens while the Trainer evaluates, at no extra pass: `eval_gap`, `eval_x_to_y_recall@1`, ...
    appear in the log beside `eval_loss`, and in what `evaluate` returns, so that `metric_for_best_model` may name one.
    With `loaders`, one pass over each is added after every evaluation, or after every epoch where the Trainer does not
    evaluate: `train_gap`, .... Under several processes each takes its share, samples that were repeated to even out
    the last batch do not count, and all log the same values. Training steps only pass a hook that returns at once;
    an `evaluate` outside of training, where there is no hook, costs one more pass over its data. What is measured is
    the model that the Trainer has at the time, such as the one that `model_init` made for the run.

        trainer.add_callback(ModalityGapCallback(trainer))
        trainer.add_callback(ModalityGapCallback(trainer, {"test": DataLoader(test, 256, collate_fn=collator)}))

    Args:
        trainer: to log through; its model is a `ContrastiveModel`, a `DualEncoder`, or returns `image_embeds` and
            `text_embeds`.
        loaders: name -> plain DataLoader; the Trainer's accelerator shards and moves the batches.
        piggyback: listen to the Trainer's own evaluations.
        pool_size: pairs among which is retrieved, stated in the log as `x_to_y_pool`; the first ones that were seen.
        ks: of recall at k.

    Attributes:
        latest: the last metrics, by name.

    Raises:
        TypeError, ValueError: without a Trainer, or with nothing to measure.
    """

    def __init__(
        self,
        trainer: Trainer,
        loaders: Mapping[str, DataLoader] | None = None,
        *,
        piggyback: bool = True,
        pool_size: int = 1000,
        ks: Sequence[int] = (1, 5),
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"the callback logs through a Trainer, got a {type(trainer).__name__}; make the Trainer first, then "
                "`trainer.add_callback(ModalityGapCallback(trainer))`"
            )
        if not piggyback and not loaders:
            raise ValueError("without `loaders` and with `piggyback=False` there is no batch to measure; pass one")
        self.trainer, self.piggyback = trainer, piggyback
        self._loaders, self._prepared = dict(loaders or {}), False
        self._observer = PairObserver(trainer.model, pool_size=pool_size, ks=ks, valid_rows=self._valid_rows)
        self._unobserved: set[str] = set()
        self.latest: dict[str, float] = {}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._observer.point_at(self.trainer.model)
        self._observer.start()
        self._observer.attach()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
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
            if not (self._observer.attached and self._observer.model is self.trainer.model):
                self._run(eval_dataloader)
            found = self._metrics(_prefix(metrics or {}))
        self._report(found | self._measure_loaders(), metrics)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.eval_strategy == "no":
            self._report(self._measure_loaders(), None)

    def _report(self, found: dict[str, float], metrics: dict[str, float] | None) -> None:
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
        self._observer.start()
        self._observer.attach()
        model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad(), self.trainer.compute_loss_context_manager():
                for batch in loader:
                    model(**batch)
        finally:
            model.train(was_training)
            if not was_attached:
                self._observer.detach()

    def _metrics(self, prefix: str) -> dict[str, float]:
        observer = self._observer
        if observer.skipped:
            warnings.warn(
                f"modality gap of {prefix!r}: {observer.skipped} batches had NaN or inf, or no embeddings of two "
                "modalities among what the model returned",
                stacklevel=2,
            )
        found = observer.metrics()
        if not found and not observer.skipped and prefix not in self._unobserved:
            self._unobserved.add(prefix)
            warnings.warn(
                f"modality gap of {prefix!r}: nothing is logged, for fewer than two pairs went through the Trainer's "
                f"model, a {type(self.trainer.model).__name__}; is the set empty, or does something else evaluate? "
                "Then pass `loaders`",
                stacklevel=2,
            )
        return {f"{prefix}_{name}": value for name, value in found.items()}

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
