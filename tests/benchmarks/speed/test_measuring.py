"""The speed benchmarks measure what they say, on tiny models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.speed import measuring
from benchmarks.speed.peers import METHODS, adapted
from benchmarks.speed.workloads import Workload
from tests.benchmarks.cases import DECODER, ENCODER


def test_every_round_calls_every_function_and_ratios_are_taken_within_it() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measuring.interleaved_seconds(functions, repeats=5, warmup=2, seed=0)
    assert [len(values) for values in seconds.values()] == [5, 5]
    rounds = [calls[i : i + 2] for i in range(0, len(calls), 2)]
    assert len(rounds) == 7 and all(sorted(names) == ["a", "b"] for names in rounds)
    compared = measuring.compared({"a": [1.0, 4.0, 9.0], "b": [2.0, 2.0, 3.0]}, "b")
    assert compared["a"]["ratio_to_b"]["median"] == 2.0 and compared["a"]["seconds"]["max"] == 9.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts what the allocator of the CPU hands out")
def test_the_peak_is_of_what_is_alive_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(1000, 1000)

    def at_once() -> None:
        kept = [torch.empty(1000, 1000) for _ in range(3)]
        del kept

    assert measuring.peak_allocated_bytes(one_after_the_other) == 4_000_000
    assert measuring.peak_allocated_bytes(at_once) == 12_000_000


@pytest.mark.parametrize("workload", [ENCODER, DECODER], ids=["encoder", "decoder"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_adapts_all_linear_layers_of_the_blocks(method: str, workload: dict) -> None:
    shape = Workload(**workload)
    plain = shape.model(seed=0)
    linear = sum(isinstance(module, nn.Linear) for name, module in plain.named_modules() if "head" not in name)
    model = adapted(shape.model(seed=0), method, shape.targets, 4)
    adapted_modules = sum(hasattr(module, "base_layer") for module in model.modules())
    assert adapted_modules == (0 if method == "frozen" else linear)
    loss = shape.loss(model, seed=0)()
    assert torch.isfinite(loss) and loss.requires_grad
    loss.backward()


def test_the_limit_propagates_gradients_exactly_as_far_as_an_adapter_would() -> None:
    shape = Workload(**ENCODER)
    reached: dict[str, dict[str, bool]] = {}
    for method in ("frozen", "lora"):
        model = adapted(shape.model(seed=0), method, shape.targets, 4)
        reached[method] = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lora" not in name:
                key = name.replace("base_model.model.", "").replace(".base_layer", "")
                module.register_forward_pre_hook(
                    lambda module, args, key=key, seen=reached[method]: seen.update({key: args[0].requires_grad})
                )
        shape.loss(model, seed=0)()
    assert reached["frozen"] == reached["lora"] and set(reached["lora"].values()) == {True, False}
