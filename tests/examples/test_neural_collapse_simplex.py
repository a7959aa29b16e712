"""Class vectors in three dimensions come closer to a tetrahedron, and are drawn."""

from __future__ import annotations

import re

import torch

from tests.examples import cases

example = cases.load("neural_collapse_simplex")


def test_class_vectors_approach_a_simplex_and_are_drawn(tmp_path, monkeypatch, capsys) -> None:
    words = ["--data", cases.fashion_mnist(tmp_path), "--steps", "100", "--output", tmp_path / "out/simplex.png"]
    assert cases.run(example, monkeypatch, *words) == 0
    found = re.findall(r"class vectors ([\d.]+) from a simplex", capsys.readouterr().out)
    early, end = map(float, found)
    assert end < early / 2
    assert (tmp_path / "out/simplex.png").stat().st_size > 10_000


def test_four_classes_are_taken_and_renumbered(tmp_path) -> None:
    images, labels = example.fashion_mnist(cases.fashion_mnist(tmp_path), 5)
    assert images.shape == (20, 1, 28, 28) and torch.bincount(labels).tolist() == [5] * 4
    bright = images[:, 0].mean(2).argmax(1)  # the row that tells the class
    assert bright[::5].tolist() == [2 * label + 3 for label in example.CLASSES]
