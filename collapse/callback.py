"""`NeuralCollapseCallback`: the metrics in the log of a Trainer, beside the loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from collapse.heads.finding import base_model_of
from collapse.metrics import neural_collapse
from collapse.observer import HeadObserver
from collapse.statistics import Within
from evaluation_hooks import EvaluationCallback, random_states_kept

_LABEL_NAMES = ("labels", "label", "label_ids")


class NeuralCollapseCallback(EvaluationCallback):
    """Log NC1 to NC4, CDNV and the spread of feature norms of a Trainer's classifier.

    Without `loaders` it listens while the Trainer evaluates, at no extra pass: `eval_nc1`, ... appear in the log beside
    `eval_loss` (TensorBoard, trackio, W&B, `state.log_history`), and in what `evaluate` returns, so that
    `metric_for_best_model="eval_nc1"` works. With `loaders`, one pass over each is added after every evaluation, or
    after every epoch where the Trainer does not evaluate: `train_nc1`, .... With several processes each takes
    its share, samples that were repeated to fill the last batch do not count, and all log the same values. The callback
    has no state, so a resumed run logs what an uninterrupted one does. The hooks are on the model during training only:
    an `evaluate` outside of training costs one more pass over its data. The callback measures the model that the
    Trainer has at the time, such as the one that `model_init` made for the run.

        callback = NeuralCollapseCallback(trainer, {"train": DataLoader(probe, batch_size=256, collate_fn=collator)})
        trainer.add_callback(callback)

    Args:
        trainer: the Trainer to log through; its model needs a classification head (see `find_head`).
        loaders: name -> plain DataLoader with labels; the Trainer's accelerator shards the batches and moves them.
        piggyback: listen to the Trainer's own evaluations.
        head: see `find_head`.
        within: see `ClassStatistics`; "trace" does without the d x d matrix and logs the quotient for NC1.
        center_samples: rows kept on each process for NC4; with 0 there is no NC4.
        options: further keyword arguments of `neural_collapse`.

    Attributes:
        latest: the last metrics, by name.

    Raises:
        TypeError, ValueError: without a Trainer, with nothing to measure, for a model whose head is not found or has
            no classes, or for data whose first label is not a class. Batches whose labels turn out not to be classes
            later, as in a stream, are left out with a warning.
    """

    subject = "neural collapse"
    nothing_seen = "no labeled sample went through the head of the Trainer's model"

    def __init__(
        self,
        trainer: Trainer,
        loaders: Mapping[str, DataLoader] | None = None,
        *,
        piggyback: bool = True,
        head: str | None = None,
        within: Within = "full",
        center_samples: int = 4096,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(trainer, loaders, piggyback=piggyback)
        self._options = dict(options or {})
        self.observer: HeadObserver = HeadObserver(
            trainer.model, head, within=within, center_samples=center_samples, valid_rows=self.valid_rows,
            skip_unusable=True,
        )  # fmt: skip
        _check_first_labels(trainer, self._loaders, piggyback=piggyback)

    def measure(self) -> dict[str, float]:
        statistics = self.observer.statistics.reduce()
        if statistics.num_samples == 0:
            return {}
        found = neural_collapse(statistics, weight=self.observer.class_vectors(), **self._options)
        if self.observer.center_samples:
            found["nc4"] = _weighted_mean(*self.observer.center_agreement(statistics), statistics.means.device)
        return found

    def skipped(self) -> list[str]:
        counted = (
            (
                self.observer.unlabeled,
                "came without labels (label smoothing and `compute_loss_func` remove them; use `loaders`)",
            ),
            (self.observer.not_finite, "had NaN or inf in the features"),
        )
        found = [f"{count} batches {reason}" for count, reason in counted if count]
        return found + [f"{count} batches were left out: {text}" for text, count in self.observer.unusable.items()]


def _weighted_mean(value: float, weight: int, device: torch.device) -> float:
    """Average over all processes."""
    sums = torch.tensor([value * weight, weight], dtype=torch.float64, device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return (sums[0] / sums[1].clamp(min=1)).item()


def _check_first_labels(trainer: Trainer, loaders: Mapping[str, DataLoader], *, piggyback: bool) -> None:
    """Check the first label of every data set that will be measured, where reading it takes nothing away.

    Data sets without a length or an index, and rows that their collator does not take alone, are not looked at.

    Raises:
        TypeError: a label is a number or several labels, as regression and multi-label models have.
    """
    for name, loader in loaders.items():
        _check(f"of {name!r}", _first_row(loader.dataset), loader.collate_fn)
    evaluated = trainer.eval_dataset if piggyback else None
    for dataset in evaluated.values() if isinstance(evaluated, dict) else (evaluated,):
        row = _first_row(dataset)
        if isinstance(row, Mapping) and trainer.args.remove_unused_columns:
            row = _of_the_model(row, trainer.model)
        _check("to evaluate on", row, trainer.data_collator)


def _first_row(dataset: Any) -> Any:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or len(dataset) == 0:
        return None
    with random_states_kept():
        return dataset[0]


def _of_the_model(row: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Leave out of a row what Trainer leaves out: columns that the model does not take."""
    wanted = {*inspect.signature(base_model_of(model).forward).parameters, *_LABEL_NAMES}
    return {name: value for name, value in row.items() if name in wanted}


def _check(which: str, row: Any, collate: Callable[[list[Any]], Any]) -> None:
    if row is None:
        return
    try:
        with random_states_kept():
            batch = collate([row])
    except Exception:  # whatever a collator of the user's wants; the batches will tell
        return
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if isinstance(labels, Tensor) and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise TypeError(
            f"neural collapse needs one integer label for each sample, but the first label of the data {which} is "
            f"{labels[0].tolist()}; regression and multi-label targets have no classes: leave the callback out, or "
            "give the class of each sample"
        )
