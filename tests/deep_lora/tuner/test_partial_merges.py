"""Merging some of the active adapters, at a scale, and batches of several adapters from several threads."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread, current_thread
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, rescale_adapter_scale
from tests.models import LAYER_CASES, LINEAR, Mixed, adapt, disturb_, ids, layers_of


def output(model: nn.Module, x: Tensor) -> Tensor:
    found = model(x)
    return getattr(found, "logits", found).detach()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


CASES: dict[str, Any] = {**LAYER_CASES, "attention": (Attention, torch.eye(8), {"target_modules": ["attention"]})}


@pytest.fixture(params=CASES)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[PeftModel, Tensor]]:
    """A model with two active adapters, and an input."""
    torch.manual_seed(0)
    build, x, settings = CASES[request.param]
    model = adapt(build().eval(), r=2, **settings)
    model.add_adapter("second", DeepLoraConfig(r=3 if not settings.get("target_parameters") else 2, **settings))
    disturb_(model)
    model.base_model.set_adapter(["default", "second"])
    yield model, x


@pytest.mark.parametrize("first", ["default", "second"])
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_merged_acts_beside_what_is(both: tuple[PeftModel, Tensor], first: str) -> None:
    model, x = both
    wanted = output(model, x)
    model.merge_adapter([first])
    close(output(model, x), wanted)
    model.merge_adapter()
    close(output(model, x), wanted)
    model.unmerge_adapter()
    close(output(model, x), wanted)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_merged_at_a_scale_is_taken_out_at_that_scale(both: tuple[PeftModel, Tensor]) -> None:
    model, x = both
    wanted = output(model, x)
    with rescale_adapter_scale(model, 0.5):
        scaled = output(model, x)
        model.merge_adapter()
        close(output(model, x), scaled)
    close(output(model, x), scaled)
    model.unmerge_adapter()
    close(output(model, x), wanted)


def test_another_scale_for_a_merged_adapter_is_refused_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=LINEAR, init_weights=False)
    wanted = output(model, ids())
    model.merge_adapter()
    layer: Any = layers_of(model)[0]
    for change in (
        lambda: rescale_adapter_scale(model, 2.0).__enter__(),
        lambda: layer.set_scale("default", 2.0),
        lambda: layer.scale_layer(0.5),
        lambda: layer.unscale_layer(2.0),
    ):
        with pytest.raises(ValueError, match="is merged, so another scale would have no effect; call"):
            change()
    layer.unscale_layer()  # to what it is
    model.unmerge_adapter()
    close(output(model, ids()), wanted)


def test_threads_have_the_adapters_of_their_own_batches() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=[*LINEAR, "embedding"], init_weights=False)
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=LINEAR, init_weights=False))
    x = ids()
    batches: list[list[str] | None] = [["default"] * 4, ["second", "__base__"] * 2, None, ["__base__"] * 4]

    def run(names: list[str] | None) -> Tensor:
        return (model(x) if names is None else model(x, adapter_names=names)).detach()

    alone = [run(names) for names in batches]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(run, batches * 25))
    for index, found in enumerate(together):
        close(found, alone[index % len(batches)])
    assert not any(layer.read_in_mixed_batch or layer._forward_pre_hooks for layer in layers_of(model))


def test_a_hook_that_another_thread_is_taking_off_changes_nothing() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=LINEAR, init_weights=False)
    wanted, inside, go = output(model, ids()), Event(), Event()

    def wait(*_: object) -> None:
        inside.set()
        go.wait(60)

    model.base_model.model.norm.register_forward_pre_hook(lambda *_: wait() if current_thread() is other else None)
    other = Thread(target=lambda: model(ids(), adapter_names=["__base__"] * 4))
    other.start()
    assert inside.wait(60)
    for layer in layers_of(model):
        layer._forward_pre_hooks_with_kwargs.clear()  # torch takes off this first, then the hook
    try:
        assert torch.equal(output(model, ids()), wanted)
    finally:
        go.set()
        other.join()


def test_copies_merge_apart() -> None:
    torch.manual_seed(0)
    model = adapt(Mixed(), r=2, target_modules=LINEAR, init_weights=False)
    wanted, twin = output(model, ids()), copy.deepcopy(model)
    twin.merge_adapter()
    close(output(model, ids()), wanted)
    close(output(twin, ids()), wanted)
    assert layers_of(twin)[0].merged_scaling == {"default": 1.0} and not layers_of(model)[0].merged_scaling
