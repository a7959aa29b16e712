"""The comparisons of the command line: their files, their words, and the study's difference beside them."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pandas as pd
import pytest

from benchmarks.few_shot import comparisons
from benchmarks.few_shot.comparisons import RULED, USUAL
from benchmarks.pages.command_line import compared_row
from benchmarks.result_files import SETTINGS
from benchmarks.studies.compare_command import read, study, words, write_parts
from training.commands.compare import TYPES
from training.settings.parsing import parse


def test_the_parts_are_disjoint_and_hold_every_row(tmp_path) -> None:
    rows = pd.DataFrame({"text": [f"row {number}" for number in range(20)], "label": range(20)})
    write_parts(rows, tmp_path, validation=5, test=8)
    parts = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [7, 5, 8]
    assert sorted(pd.concat(parts)["label"]) == list(range(20))


def test_word_pairs_have_scores_between_0_and_1() -> None:
    if find_spec("gensim") is None:
        pytest.skip("gensim, which has the word pairs, is not installed")
    rows = read("simlex")
    assert len(rows) == 999 and rows.loc[0].tolist() == ["old", "new", 0.158] and rows["label"].between(0, 1).all()


def test_the_command_takes_the_words_of_every_task(tmp_path) -> None:
    settings = json.loads((SETTINGS / "compare_command.json").read_text())
    for name, asked in settings["tasks"].items():
        command, *rest = words(tmp_path / name, asked, settings)
        groups = parse(TYPES, rest, command=command, description="")
        assert groups[3].num_train_samples == 64 and groups[5].output_dir == str(tmp_path / name / "runs")


def test_the_study_compares_the_same_two_methods_seed_by_seed(monkeypatch) -> None:
    table = {RULED: {"test": {"values": [0.5, 0.7]}}, USUAL: {"test": {"values": [0.4, 0.5]}}}
    monkeypatch.setattr(comparisons, "methods_of", {"one": table}.__getitem__)
    theirs = study("one")
    assert theirs["seeds"] == 2 and theirs["difference"]["mean"] == pytest.approx(0.15)
    ours = {"Deep LoRA": {}, "LoRA (rate 0.001)": {"difference": {"mean": 0.02, "low": 0.01, "high": 0.03}}}
    row = compared_row("simlex", {"methods": ours, "seeds": [0, 1, 2], "study": theirs})
    assert row[:3] == ["SimLex-999", "+2.0 [+1.0, +3.0], 3 pairs", "Deep LoRA"] and row[4] == "level"
