"""The study without the step rule: which reviews it uses, and that it goes on where it was stopped."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from benchmarks.few_shot.tasks.base import TaskSettings
from benchmarks.packages import MINILM, packaged_file
from benchmarks.result_files import SETTINGS
from benchmarks.studies import plain_rates

TASK = json.loads((SETTINGS / "plain_rates.json").read_text())["task"]


def test_its_reviews_are_longer_than_those_of_the_few_shot_study_and_none_is_in_both_parts() -> None:
    train, held_out = plain_rates.parts(TASK, AutoTokenizer.from_pretrained(packaged_file(*MINILM)), seed=0)
    assert (len(train), len(held_out)) == (TASK["train"], TASK["held_out"])
    lengths = {len(row["input_ids"]) for row in [*train, *held_out]}
    assert TaskSettings.max_tokens < min(lengths) and lengths <= set(range(TASK["min_tokens"], TASK["max_tokens"] + 1))
    assert not {tuple(row["input_ids"]) for row in train} & {tuple(row["input_ids"]) for row in held_out}
    assert sum(row["labels"] for row in train + held_out) == (TASK["train"] + TASK["held_out"]) // 2


def test_runs_that_are_kept_are_not_repeated(tmp_path, monkeypatch) -> None:
    done = []
    monkeypatch.setattr(
        plain_rates, "run", lambda task, method, rate, seed: done.append(seed) or {"accuracy": rate, "loss": 1.0}
    )
    settings = {"seeds": 2, "rates": [0.1, 0.3], "task": TASK, "methods": {"LoRA": {"adapter": "lora", "config": {}}}}
    found = plain_rates.measure(settings, tmp_path)["methods"]["LoRA"]
    assert found["0.3"]["accuracy"] == [0.3, 0.3] and found["0.1"]["mean"] == pytest.approx(0.1) and len(done) == 4
    plain_rates.measure(settings | {"seeds": 3}, tmp_path)
    assert done[4:] == [2, 2]
