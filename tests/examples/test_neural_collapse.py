"""Features of a few images collapse by every method, from one start on the same batches."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from tests.examples import cases

example = cases.load("neural_collapse")
QUICK = {"steps": 40, "width": 4, "learning_rate": 0.05, "scale": None, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.fashion_mnist(tmp_path_factory.mktemp("images"))


def test_the_example_writes_curves_and_results(folder, tmp_path, monkeypatch) -> None:
    words = ["--steps", "10", "--per_class", "20", "--width", "4", "--data", folder, "--output_dir", tmp_path]
    assert cases.run(example, monkeypatch, *words) == 0
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"nc1", "nc2", "nc3", "nc4", "test_accuracy"} <= set(results["normalized"][-1])
    assert set(results) == {"cross_entropy", "normalized"} and len(results["normalized"]) == 10


def test_missing_data_are_named_and_the_help_says_how_to_get_them(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte.gz"):
        cases.run(example, monkeypatch, "--data", tmp_path)
    assert "apt-get install dataset-fashion-mnist" in example.__doc__


@pytest.mark.parametrize("method", example.METHODS)
def test_every_method_lowers_its_loss_and_raises_accuracy(method, folder) -> None:
    data = example.fashion_mnist(folder, "train", 20)
    first, *_, last = example.train_network(method, data, data, argparse.Namespace(**QUICK))
    assert last["loss"] < first["loss"]
    assert last["train_accuracy"] > max(first["train_accuracy"], 0.3)


def test_methods_of_a_seed_share_their_start_and_their_batches(folder, monkeypatch) -> None:
    data, inner, seen = example.fashion_mnist(folder, "train", 20), example.batch_loss, {}
    monkeypatch.setattr(
        example, "batch_loss",
        lambda method, head, features, labels: seen.setdefault(method, []).append((features.detach(), labels))
        or inner(method, head, features, labels),
    )  # fmt: skip
    for method in ("cross_entropy", "normalized"):
        example.train_network(method, data, data, argparse.Namespace(**(QUICK | {"steps": 3})))
    one, two = seen["cross_entropy"], seen["normalized"]
    assert torch.equal(one[0][0], two[0][0])
    assert len(one) == 3 and all(torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_the_first_images_of_every_class_are_taken(folder) -> None:
    images, labels = example.fashion_mnist(folder, "train", 3).tensors
    assert images.shape == (30, 1, 28, 28) and torch.bincount(labels).tolist() == [3] * 10
    everything = example.fashion_mnist(folder, "train", 20).tensors
    for label in range(10):
        assert torch.equal(images[labels == label], everything[0][everything[1] == label][:3])
