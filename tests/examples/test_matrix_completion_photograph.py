"""A photograph is completed, and its quality is measured in decibels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.examples import cases

example = cases.load("matrix_completion_photograph")


def test_twenty_decibels_are_a_tenth_of_the_range() -> None:
    assert example.psnr(np.array([0.1, -0.1])) == pytest.approx(20.0)


def test_missing_pixels_are_completed_and_drawn(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("PIL")
    words = ["--every", "4", "--rank", "10", "--epochs", "10", "--output", tmp_path / "out/photograph.png"]
    assert cases.run(example, monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert cases.prints_as_documented(example, printed)
    quality = re.search(r"70% missing: ([\d.]+) dB", printed)
    assert quality and float(quality[1]) > 10
    assert (tmp_path / "out/photograph.png").stat().st_size > 10_000
