"""What is reported of held-out preferences is a mean over pairs, whatever batch and process they are in."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import set_seed

pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg

from tests.models import disturb_
from tests.processes import results_of_two
from tests.training import chats, tiny
from training.commands.finetune import TYPES, build_job
from training.runner import build_trainer
from training.settings.parsing import parse

PAIRS, BETA = 5, 1.0
NAMES = ("eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_rewards/chosen", "eval_logps/rejected")


def trainer_of(folder, batch: int):
    options = {
        "model": folder / "chat", "dataset": folder / "pairs.jsonl", "validation_data": folder / "pairs.jsonl",
        "output_dir": folder / "run", "task": "dpo", "beta": BETA, "per_device_eval_batch_size": batch,
    }  # fmt: skip
    words = [*tiny.QUICK, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    job = build_job(*parse(TYPES, words, command="finetune", description=""))
    set_seed(0)
    model = job.task.build_model(job)
    with torch.no_grad():
        disturb_(model, scale=5.0)
    return build_trainer(job, model, {})


def reported(rank: int, folder: str, *, batch: int) -> list[float]:
    found = trainer_of(Path(folder), batch).evaluate()
    return [found[name] for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferences")
    chats.save_chat_model(folder / "chat")
    chats.save_rows(folder / "pairs.jsonl", chats.rows("preferences", PAIRS))
    return folder


@torch.no_grad()
def by_definition(folder) -> list[float]:
    """The same from log probabilities of one sequence after another, with the adapter and without it."""
    trainer = trainer_of(folder, 1)
    model, losses, right, margins, rewards, logps = trainer.model.eval(), [], [], [], [], []
    for row in trainer.eval_dataset:
        ratios = []
        for answer in (row["chosen_ids"], row["rejected_ids"]):
            ids = torch.tensor([row["prompt_ids"] + answer])
            own = said(model, ids, len(answer))
            with model.disable_adapter():
                ratios.append(own - said(model, ids, len(answer)))
        logps.append(own)
        margins.append(BETA * (ratios[0] - ratios[1]))
        losses.append(-nn.functional.logsigmoid(torch.tensor(margins[-1])).item())
        right.append(ratios[0] > ratios[1])
        rewards.append(BETA * ratios[0])
    return [sum(values) / PAIRS for values in (losses, right, margins, rewards, logps)]


def said(model: nn.Module, ids: torch.Tensor, count: int) -> float:
    logs = model(ids).logits[0, :-1].log_softmax(-1)
    return logs.gather(1, ids[0, 1:, None])[-count:].sum().item()


def test_held_out_preferences_are_means_over_pairs_in_one_process_and_in_two(folder) -> None:
    expected = by_definition(folder)
    assert 0 < expected[1] < 1 and abs(expected[2]) > 0.01
    for batch in (2, 4):
        assert reported(0, str(folder), batch=batch) == pytest.approx(expected, abs=1e-4)
    for found in results_of_two(partial(reported, batch=2), folder):  # the second process's last pairs are repeats
        assert found == pytest.approx(expected, abs=1e-4)
