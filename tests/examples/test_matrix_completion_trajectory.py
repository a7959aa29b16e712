"""The compressed factorization starts where the wide one does, and follows it."""

from __future__ import annotations

import json

import pytest

from tests.examples import cases

example = cases.load("matrix_completion_trajectory")


def test_both_start_at_the_same_matrix_and_descend_together() -> None:
    curves = example.compare_trajectories(30, 40, seed=0)
    wide, compressed = (curves[name]["loss"] for name in ("wide", "compressed"))
    assert wide[0] == pytest.approx(compressed[0], rel=1e-3), "nearly zero, both"
    assert wide[-1] < wide[0] and compressed[-1] < compressed[0]
    assert curves["wide"]["step"] == [0, 20, 40]


def test_the_curves_are_drawn_and_written(tmp_path, monkeypatch, capsys) -> None:
    words = ["--size", "30", "--steps", "20", "--output_dir", tmp_path / "out"]
    assert cases.run(example, monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "after 20 steps: recovery error wide" in printed and cases.prints_as_documented(example, printed)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"trajectory.png", "trajectory.json"}
    assert json.loads((tmp_path / "out/trajectory.json").read_text()).keys() == {"wide", "compressed"}
