"""`SubspaceInitializationCallback(trainer=)`: trainers that compute the loss themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from deep_lora import SubspaceInitializationCallback, initialize_subspaces_, to_lora
from tests.models import adapt, bases_of, bert_classifier, ids, layers_of

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
    return [basis for layer in layers_of(model) for basis in bases_of(layer)]


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
    with pytest.raises(
        ValueError,
        match=r"own loss needs batches that are mappings, got a list; if the trainer .*Callback\(trainer=trainer",
    ):
        trainer.train()


class Tower(nn.Module):
    """A model that takes all features as one dict, like those of sentence-transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _model()

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.inner(**features).logits


def test_a_model_that_cannot_take_the_batch_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    callback = SubspaceInitializationCallback()
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(
        ValueError, match=r"does not take a batch with \['input_ids'\] .*unexpected keyword.*trainer=trainer"
    ):
        callback.on_train_begin(
            arguments, TrainerState(), TrainerControl(), model=Tower(), train_dataloader=[{"input_ids": ids()}]
        )


def test_an_export_of_what_holds_a_peft_model_is_an_error_that_says_what_to_give() -> None:
    tower = Tower()
    with pytest.raises(ValueError, match=r"a Tower has no `peft_config`; pass the PEFT model inside it"):
        to_lora(tower)
    assert to_lora(tower.inner)[0].r == 1


def test_new_subspaces_for_a_trained_adapter_are_a_warning_and_none_for_a_fresh_one(recwarn) -> None:
    model = _model()

    def closure() -> None:
        model(input_ids=ids(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()

    initialize_subspaces_(model, closure)
    assert not [warning for warning in recwarn if "trained before" in str(warning.message)]
    with torch.no_grad():
        layers_of(model)[0].deep_lora_core["default"].add_(0.01)
    with pytest.warns(UserWarning, match=r"'default' was trained before \(1 of 4 modules .*\); new subspaces destroy"):
        initialize_subspaces_(model, closure)
