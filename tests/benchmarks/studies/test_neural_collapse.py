"""Neural collapse on images: the data, the training of every loss, and statistics of paired runs."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from benchmarks.paired import compare, mean_with_interval, steps_until
from benchmarks.studies.neural_collapse import images
from benchmarks.studies.neural_collapse.network import Images, SmallResNet, fashion_mnist
from benchmarks.studies.neural_collapse.training import METHODS, Settings, train_network


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


def test_missing_data_are_named_with_the_way_to_get_them(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing: install it with `apt-get install dataset-"):
        fashion_mnist(str(tmp_path), "train")


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
    some = Images(torch.arange(6.0)[:, None], torch.tensor([2, 0, 2, 0, 2, 1]))
    assert some.first_per_class(1).pixels.flatten().tolist() == [0, 1, 5]


def test_the_benchmark_runs_every_loss_at_every_scale_and_resumes(folder, tmp_path, monkeypatch, capsys) -> None:
    output = tmp_path / "result.json"
    words = ["images", "--smoke", "--data", folder, "--output", str(output), "--methods", "cross_entropy", "nonl"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(images, "splits", lambda arguments: dict.fromkeys(
        ("train", "validation", "test"), fashion_mnist(folder, "train")))  # fmt: skip
    images.main()
    first = output.read_text()
    assert "nonl scale=6" in first and "never" not in first
    monkeypatch.setattr(images, "curve_of", None)  # nothing is left to be run
    images.main()
    assert output.read_text() == first and "nonl scale=6" in capsys.readouterr().out


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
