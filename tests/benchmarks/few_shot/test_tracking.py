"""How far the compressed form follows the wide one: the overlap is a share, of the spaces that it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks.few_shot.methods import Method
from benchmarks.few_shot.tasks import task_of
from benchmarks.few_shot.tracking import layers_of, measure, overlap, prepared, subspaces_of
from tests.benchmarks.cases import SMALL

TASK = {"name": "simlex", **SMALL, "evaluate_every": 2}
COMPRESSED = {"config": {"r": 4, "core_scale": 1.0}, "batches": 1, "sides": "both", "rate": 1e-2}


def test_the_overlap_with_its_own_subspaces_is_one_and_with_random_ones_that_of_chance() -> None:
    model, _ = prepared(task_of({"task": TASK}), Method("deep_lora", {"r": 4}), 0)
    layers, subspaces = layers_of(model), subspaces_of(model)
    with torch.no_grad():
        for layer in layers.values():
            layer.deep_lora_core["default"] += torch.diag(torch.arange(4.0))
    whole = overlap(layers, subspaces)
    assert whole["left"] == pytest.approx(1, abs=1e-4) and whole["right"] == pytest.approx(1, abs=1e-4)
    generator = torch.Generator().manual_seed(1)
    other = {name: tuple(torch.linalg.qr(torch.randn(b.shape, generator=generator)).Q for b in pair)
             for name, pair in subspaces.items()}  # fmt: skip
    found = overlap(layers, other)
    assert found["left"] == pytest.approx(found["chance"], abs=0.01) and 0 < found["chance"] < 0.011


def test_every_method_gets_a_loss_for_each_step_and_the_wide_one_its_overlaps() -> None:
    settings = {
        "task": TASK, "seeds": [0, 1], "measured_steps": [2], "wide": "wide", "compressed": "compressed",
        "methods": {"wide": {"config": {"r": 4, "variant": "narrow", "init_scale": 0.3}, "batches": 0, "rate": 1e-3,
                             "sides": "right"},
                    "compressed": COMPRESSED},
    }  # fmt: skip
    result = measure(settings)
    assert {name: len(losses) for name, losses in result["losses"].items()} == {"wide": 2, "compressed": 2}
    (point,) = result["overlaps"]
    assert point["step"] == 2 and 0 <= point["left"] <= 1 and 0 <= point["right"] <= 1
