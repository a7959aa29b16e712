"""TRL's trainer for preferences, with the checkpoints and the care of `AdapterTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from trl import DPOConfig, DPOTrainer

from evaluation_hooks import counted_rows, has_repeats, valid_rows
from training.trainer.chat import OfTrl, as_config
from training.trainer.trainer import AdapterTrainer


class PreferenceTrainer(OfTrl, AdapterTrainer, DPOTrainer):
    """TRL's `DPOTrainer` on encoded preferences; the reference is the model without its adapter.

    Args:
        max_length: tokens after which prompt and answer are cut off.
        beta: how closely the model is held to the reference.
    """

    def __init__(self, *args: Any, max_length: int, beta: float, **kwargs: Any) -> None:
        kwargs["args"] = as_config(DPOConfig, kwargs["args"], max_length=max_length, beta=beta)
        kwargs.pop("preprocess_logits_for_metrics")  # which TRL does not take
        model = kwargs["model"]
        super().__init__(*args, **kwargs)
        if "ref" in model.peft_config:  # a copy of the fresh adapter, which changes nothing
            model.delete_adapter("ref")
            model.set_adapter("default")

    def _model_divides_by_items(self) -> bool:
        return False

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Run TRL's step, whose batches hold all better answers and then all worse ones, without repeated pairs.

        TRL's metrics of pairs are means over what it gathers, so that repeats are dropped after gathering. The loss is
        that of this process's pairs, without any exchange, since their number differs between processes.
        """
        step = super(AdapterTrainer, self).prediction_step
        pairs = len(inputs["input_ids"]) // 2
        valid, counted = valid_rows(self.accelerator, pairs), counted_rows(self.accelerator, pairs)
        if not has_repeats(self.accelerator, pairs):
            loss, logits, labels = step(model, inputs, prediction_loss_only, ignore_keys)
        else:
            with _gathered_as(self.accelerator, lambda tensor, gather: gather(tensor)[:counted]):
                _, logits, labels = step(model, inputs, prediction_loss_only, ignore_keys)
            metrics = {name: list(values) for name, values in self._metrics["eval"].items()}
            with _gathered_as(self.accelerator, lambda tensor, gather: tensor):
                loss = step(model, _first_pairs(inputs, pairs, max(1, valid)), True, ignore_keys)[0]
            self._metrics["eval"].update(metrics)
        self._add(loss, valid, counted)
        return loss, logits, labels


@contextmanager
def _gathered_as(accelerator: Any, change: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Iterator[None]:
    """Let an accelerator gather tensors by a function of a tensor and of what it would do itself."""
    own = accelerator.gather
    accelerator.gather = lambda tensor: change(tensor, own)
    try:
        yield
    finally:
        del accelerator.gather  # the method of the class is left


def _first_pairs(inputs: dict[str, Any], pairs: int, count: int) -> dict[str, Any]:
    """Return the first pairs of a batch that holds all better answers, then all worse ones.

    >>> _first_pairs({"input_ids": torch.arange(6), "ref_chosen_logps": torch.arange(3)}, 3, 1)
    {'input_ids': tensor([0, 3]), 'ref_chosen_logps': tensor([0])}
    """
    halves = {name: torch.as_tensor(value).split(pairs) for name, value in inputs.items()}
    return {name: torch.cat([half[:count] for half in parts]) for name, parts in halves.items()}
