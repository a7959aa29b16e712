"""`--general_text`: the drift on a text that is not trained on, in the log, the results and the picture."""

from __future__ import annotations

import pytest

from tests.training import tiny
from tests.training.tiny import results
from training.results import report


@pytest.fixture
def data(tmp_path):
    (tmp_path / "general.txt").write_text("the film was very fine\n\nthe worst actor is a good plot\n" * 20)
    return tiny.save_csv(tmp_path / "texts.csv", rows=12)


def test_it_is_measured_at_each_evaluation_and_drawn(data, llama, finetune, tmp_path, monkeypatch) -> None:
    words = ["--task", "causal_lm", "--general_text", tmp_path / "general.txt", "--eval_strategy", "steps"]
    words += ["--eval_steps", "1", "--max_steps", "2"]
    panels = []
    monkeypatch.setattr(report, "draw", lambda path, log, names: panels.extend(names))
    status, printed = finetune(llama, data, *words, picture=True)
    assert status == 0, printed
    found = results(tmp_path / "run")
    kl = [entry["eval_general_kl"] for entry in found["log"] if "eval_general_kl" in entry]
    assert len(kl) >= 3 and abs(kl[0]) < 1e-7 < kl[-1] and found["metrics"]["validation"]["general_kl"] > 1e-7
    assert ("general_kl",) in panels and ("update_share",) in panels
    # it may be added, or left out, when a run is continued: it decides nothing
    assert finetune(llama, data, "--task", "causal_lm", "--max_steps", "2")[0] == 0


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("good", [], "has 1 tokens; at least 2 are needed"),
        (None, [], "general.txt"),
        ("good film", ["--task", "classification"], "--general_text has no effect here; it needs --task causal_lm or"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    text, words, message, data, llama, finetune, tmp_path
) -> None:
    path = tmp_path / "general.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    status, printed = finetune(llama, data, "--task", "causal_lm", "--dry_run", "--general_text", path, *words)
    assert status == 2 and message in printed, printed


def test_sharded_weights_are_refused(data, llama, finetune, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("training.trainer.general_text.sharding_frameworks", lambda: ["DeepSpeed"])
    general = ["--general_text", tmp_path / "general.txt"]
    status, printed = finetune(llama, data, "--task", "causal_lm", "--dry_run", *general)
    assert status == 2 and "for which each process needs whole weights; DeepSpeed shards them" in printed
