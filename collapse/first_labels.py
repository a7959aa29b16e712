"""The labels of a Trainer's data before it starts: whether there are classes in them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from collapse.heads.finding import base_model_of
from evaluation_hooks import random_states_kept

_LABEL_NAMES = ("labels", "label", "label_ids")


def check_first_labels(trainer: Trainer, loaders: Mapping[str, DataLoader], *, piggyback: bool) -> None:
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
