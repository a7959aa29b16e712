"""The chat run: its conversations, the kill, and the loss that it sets beside the run's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("trl", reason="TRL needs Python 3.11")
pytest.importorskip("gguf")

from benchmarks.few_shot.tasks.language import Pair
from benchmarks.studies import chat_run
from benchmarks.studies.chat_run import answer_row, conversations, held_answers, summarize, token_loss, train
from tests.training import chats, tiny
from training.commands.finetune import TYPES, build_job
from training.reading.conversations import turns_of
from training.runner import build_trainer, evaluate
from training.settings.parsing import parse
from training.trainer.chat import Encoder

RUN = """#!/bin/bash
mkdir -p {folder}/checkpoint-2
if [ -e {folder}/checkpoint-2/trainer_state.json ]
then echo '{{"status": "complete", "resumed_from": "{resumed}"}}' > {folder}/results.json
else touch {folder}/checkpoint-2/trainer_state.json; sleep {seconds}
fi
"""


def test_conversations_are_about_words_of_their_own_with_a_gloss_and_another_word() -> None:
    pairs = [
        Pair("sum, amount, total (noun)", "a quantity of money; see also"), Pair("alone (adverb)", "without anybody"),
        Pair("sum, count (verb)", "find the whole of it"), Pair("A-list, top (noun)", "those who are most admired"),
        Pair("tiny, little (adjective)", "very small"), Pair("tiny, bantam (adjective)", "very small indeed"),
    ]  # fmt: skip
    found = conversations(pairs, 9)
    assert sorted(one[0]["content"] for one in found) == ["What does sum mean?", "What does tiny mean?"]
    assert [turn["content"] for one in found if "sum" in one[0]["content"] for turn in one[1::2]] == [
        "A quantity of money.", "It is a noun.", "Amount.",
    ]  # fmt: skip
    assert all(turns_of(one) == one and len(one) == 6 for one in found) and len(conversations(pairs, 1)) == 1
    assert list(held_answers(found[:1])) == [turn["content"] for turn in found[0][1::2]]


def fake_python(tmp_path: Path, monkeypatch, resumed: str, seconds: int) -> Path:
    """A program in place of Python that writes a checkpoint and waits, and when it finds one, writes results."""
    command = tmp_path / "python"
    command.write_text(RUN.format(folder=tmp_path / "run", resumed=resumed, seconds=seconds))
    command.chmod(0o755)
    monkeypatch.setattr(chat_run.sys, "executable", str(command))
    monkeypatch.setattr(chat_run, "LOST", 0)
    return command


def test_the_run_is_killed_and_resumes_and_is_not_repeated(tmp_path, monkeypatch) -> None:
    command = fake_python(tmp_path, monkeypatch, "checkpoint-2", seconds=60)
    assert train([], tmp_path / "run", "checkpoint-2")["status"] == "complete"
    command.unlink()
    assert train([], tmp_path / "run", "checkpoint-2")["resumed_from"] == "checkpoint-2"


def test_a_run_that_ends_by_itself_or_does_not_resume_is_refused(tmp_path, monkeypatch) -> None:
    fake_python(tmp_path, monkeypatch, "nothing", seconds=0)
    with pytest.raises(RuntimeError, match="the run ended with 0 before it had written checkpoint-3"):
        train([], tmp_path / "run", "checkpoint-3")
    (tmp_path / "run" / "results.json").write_text('{"status": "complete", "resumed_from": null}')
    with pytest.raises(RuntimeError, match="results.json is not of a run that was killed and resumed; delete"):
        train([], tmp_path / "run", "checkpoint-2")


def test_the_loss_of_the_assistants_tokens_is_the_one_that_a_run_reports(tmp_path) -> None:
    model = chats.save_chat_model(tmp_path / "model")
    path = chats.save_rows(tmp_path / "rows.jsonl", [{"messages": chats.turns(seed)} for seed in range(8)])
    options = ["--model", model, "--dataset", path, "--validation_data", path, "--output_dir", tmp_path / "run"]
    words = [*map(str, options), "--task", "chat", *tiny.QUICK]
    job = build_job(*parse(TYPES, words, command="finetune", description=""))
    reported = evaluate(job, build_trainer(job, job.task.build_model(job), {}))[0]["validation"]["loss"]
    encoder = Encoder(AutoTokenizer.from_pretrained(model), None)
    with torch.no_grad():
        found = token_loss(
            AutoModelForCausalLM.from_pretrained(model).eval(),
            [encoder(json.loads(line)["messages"], []) for line in path.read_text().splitlines()],
        )
    assert found == pytest.approx(reported, rel=1e-5)


def test_an_answer_is_equal_if_its_tokens_are(tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chats.save_chat_model(tmp_path))
    asked = [{"role": "user", "content": "a film"}]
    row = answer_row(tokenizer, asked, [5], [6, 4], [6, 4], "good")
    assert row["equal tokens"] and row["torch"] == row["llama.cpp"] == tiny.GOOD[1] and row["base"] == tiny.GOOD[0]
    assert not answer_row(tokenizer, asked, [5], [6, 4], [6], "good")["equal tokens"]


def test_the_drift_is_that_of_the_end() -> None:
    log = [{"step": 0, "eval_general_kl": 0.0}, {"step": 10, "loss": 1.5}]
    measured = {"loss": 1.2, "general_kl": 0.1, "update_share": 0.002}
    run = {"samples": {}, "steps": 10, "resumed_from": "checkpoint-5", "log": log, "metrics": {"validation": measured}}
    found = summarize(run)
    assert found["drift"] == {"general_kl": 0.1, "update_share": 0.002} and found["loss"] == 1.2
    assert found["training_loss"] == [[10, 1.5]]
