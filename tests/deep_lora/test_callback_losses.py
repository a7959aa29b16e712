"""`SubspaceInitializationCallback(trainer=)`: trainers that compute the loss themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from deep_lora import SubspaceInitializationCallback, initialize_subspaces_
from tests.models import adapt, adapter_tensors, bert_classifier, ids, layers_of

EXAMPLES, BATCH = 8, 2


def _model() -> PeftModel:
    torch.manual_seed(0)
    return adapt(bert_classifier(), target_modules=["query", "value"], r=4)


class Margins(Trainer):
    """Pairs of texts, of which the first is to score higher: as in a reward trainer, no labels, two forward passes."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        chosen, rejected = (model(input_ids=inputs[name]).logits[:, 0] for name in ("chosen", "rejected"))
        loss = -nn.functional.logsigmoid(chosen - rejected).mean()
        return (loss, {"margin": chosen - rejected}) if return_outputs else loss


class ListedMargins(Margins):
    """The same with batches that only the trainer understands, as in online training."""

    def _prepare_inputs(self, inputs: Any) -> dict[str, Tensor]:
        return {name: torch.stack([example[name] for example in inputs]) for name in ("chosen", "rejected")}


def _pairs() -> list[dict[str, Tensor]]:
    texts = ids(2 * EXAMPLES, 7)
    return [{"chosen": texts[2 * index], "rejected": texts[2 * index + 1]} for index in range(EXAMPLES)]


def _trainer(kind: type[Trainer], folder: Path, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=BATCH, remove_unused_columns=False, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    collator = {"data_collator": list} if kind is ListedMargins else {}
    return kind(_model(), arguments, train_dataset=_pairs(), **collator)


def _bases(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for name, tensor in adapter_tensors(model).items() if "core" not in name]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", [Margins, ListedMargins])
def test_the_loss_is_the_trainers(kind: type[Trainer], bf16: bool, tmp_path: Path) -> None:
    trainer = _trainer(kind, tmp_path, bf16=bf16)
    callback = SubspaceInitializationCallback(num_batches=EXAMPLES // BATCH, trainer=trainer)
    trainer.add_callback(callback)
    trainer.args.learning_rate = 0.0  # what is left in U and V is what the callback put there
    trainer.train()
    assert callback.report is not None and len(callback.report.initialized) == len(layers_of(trainer.model)) == 4

    other = _model()
    pairs = _pairs()

    def closure() -> None:  # all of the data at once, whatever the order in which the trainer took them
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            chosen, rejected = (
                other(input_ids=torch.stack([pair[name] for pair in pairs])).logits[:, 0]
                for name in ("chosen", "rejected")
            )
            loss = -nn.functional.logsigmoid(chosen - rejected).mean()
        loss.backward()

    initialize_subspaces_(other, closure)
    for ours, theirs in zip(_bases(trainer.model), _bases(other), strict=True):
        assert torch.linalg.norm(ours.T @ theirs) ** 2 > 3.8  # of 4, the rank (0.5 by chance): one subspace


def test_training_is_as_without_the_callback_but_for_the_start(tmp_path: Path) -> None:
    with_it, without = (_trainer(Margins, tmp_path, logging_steps=1) for _ in range(2))
    with_it.add_callback(SubspaceInitializationCallback(num_batches=3, trainer=with_it))
    with_it.train()
    without.train()
    first = [trainer.state.log_history[0]["loss"] for trainer in (with_it, without)]
    assert first[0] == first[1]  # the same first batch, and a fresh adapter is an identity wherever its subspace


def test_without_the_trainer_batches_that_are_no_mappings_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    trainer = _trainer(ListedMargins, tmp_path)
    trainer.add_callback(SubspaceInitializationCallback())
    with pytest.raises(ValueError, match=r"mappings, got a list; if the trainer computes .*Callback\(trainer=trainer"):
        trainer.train()
