"""The example and the benchmark's statistics, on a few images written in Fashion-MNIST's format."""

from __future__ import annotations

import gzip
import json
import struct
import sys

import numpy as np
import pytest
import torch

from tests.paths import ROOT

sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "benchmarks")]

pytest.importorskip("matplotlib")

import neural_collapse  # noqa: E402
from neural_collapse_model import Images, SmallResNet, fashion_mnist  # noqa: E402
from neural_collapse_training import METHODS, Settings, train_network  # noqa: E402
from paired import compare, mean_with_interval, steps_until  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten classes, twelve images each, of noise with a bright row that tells the class."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = rng.permutation(np.arange(120) % 10).astype(np.uint8)
        pixels = rng.integers(0, 60, (120, 28, 28), dtype=np.uint8)
        pixels[np.arange(120), 2 * labels + 3] = 250
        for kind, content in (
            ("images-idx3", struct.pack(">4i", 2051, 120, 28, 28) + pixels.tobytes()),
            ("labels-idx1", struct.pack(">2i", 2049, 120) + labels.tobytes()),
        ):
            with gzip.open(path / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(content)
    return str(path)


def test_the_example_writes_curves_a_picture_and_results(folder, tmp_path, monkeypatch) -> None:
    arguments = ["--steps", "10", "--per_class", "8", "--width", "4", "--data", folder, "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["neural_collapse.py", *arguments])
    assert neural_collapse.main() == 0
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("curves.png", "simplex.png"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"nc1", "nc2", "nc3", "nc4", "test_accuracy"} <= set(results["curves"]["normalized"][-1])
    assert set(results["curves"]) == {"cross_entropy", "normalized"} and len(results["class_vectors_to_simplex"]) == 2


def test_missing_data_are_named_with_the_way_to_get_them(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["neural_collapse.py", "--data", str(tmp_path)])
    assert neural_collapse.main() == 2
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_its_loss_and_raises_accuracy(method, folder) -> None:
    data = fashion_mnist(folder, "train").first_per_class(8)
    settings = Settings(method, learning_rate=0.05, batch_size=40, steps=30, measure_every=5)
    first, *_, last = train_network(settings, lambda: SmallResNet(4, 16), data, data).points
    assert last.metrics["loss"] < first.metrics["loss"]
    assert last.metrics["train_accuracy"] > max(first.metrics["train_accuracy"], 0.3)


def test_methods_of_a_seed_share_their_start_and_their_batches(folder) -> None:
    data, seen = fashion_mnist(folder, "train"), {}

    class Watched(SmallResNet):
        def forward(self, pixels):
            seen.setdefault(len(seen), (self.features.weight.detach().clone(), pixels.sum().item()))
            return super().forward(pixels)

    starts = []
    for method in ("cross_entropy", "normalized"):
        seen.clear()
        train_network(Settings(method, batch_size=50, steps=1, seed=4), lambda: Watched(4, 16), data, data)
        starts.append(seen[1])
    assert torch.equal(starts[0][0], starts[1][0]) and starts[0][1] == starts[1][1]


def test_images_are_taken_by_class_in_their_order() -> None:
    images = Images(torch.arange(6.0)[:, None], torch.tensor([2, 0, 2, 0, 2, 1]))
    assert images.first_per_class(1).pixels.flatten().tolist() == [0, 1, 5]
    kept = images.of_classes([2, 1])
    assert kept.labels.tolist() == [0, 0, 0, 1] and kept.pixels.flatten().tolist() == [0, 2, 4, 5]


def test_the_paired_table_counts_steps_to_the_baseline_and_its_interval_is_students() -> None:
    base = {seed: {"step": [10, 20, 30], "nc1": [3.0, 2.0, 1.0], "accuracy": [0.5, 0.6, 0.7]} for seed in (0, 1)}
    fast = {0: {"step": [10, 20, 30], "nc1": [0.9, 0.5, 0.1], "accuracy": [0.5, 0.6, 0.8]},
            1: {"step": [10, 20, 30], "nc1": [2.0, 1.5, 1.2], "accuracy": [0.5, 0.6, 0.7]}}  # fmt: skip
    row = compare({"base": base, "fast": fast}, "base", "nc1", ["accuracy"])["fast"]
    assert row["steps_to_target_over_baseline"] == [10 / 30, None]
    assert row["accuracy"]["difference"]["mean"] == pytest.approx(0.05)
    # Two values: mean +- t_{0.975, 1 degree of freedom} |a - b| / 2.
    assert mean_with_interval([0.0, 2.0])["high"] == pytest.approx(1 + 12.706204736432095)
    assert steps_until([(5, 2.0)], 2.0) == 5
