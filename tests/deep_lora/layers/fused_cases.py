"""A linear layer with an adapter, and the arguments of its fused step, for the tests of `deep_lora.layers.fused`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from deep_lora.functional import add_low_rank_update
from deep_lora.layers.fused import fused_linear
from deep_lora.layers.linear import Linear
from tests.models import adapt, disturb_, layers_of

IN, OUT, RANK = 6, 5, 2


def arguments_of_a_step(dtype: torch.dtype = torch.float64, tokens: int = 7, rank: int = RANK) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((tokens, IN), (OUT, IN), (OUT,), (IN, rank), (rank, rank), (OUT, rank))
    x, weight, bias, V, folded, U = (torch.randn(*shape, dtype=dtype) for shape in shapes)
    for tensor in (x, V, folded, U):
        tensor.requires_grad_(True)
    return x, weight, bias, V, folded, U


def plain_step(x: Tensor, weight: Tensor, bias: Tensor | None, V: Tensor, folded: Tensor, U: Tensor) -> Tensor:
    return add_low_rank_update(nn.functional.linear(x, weight, bias), x @ V, folded, U)


def adapted_linear(base: nn.Module | None = None, **settings: object) -> tuple[PeftModel, Linear]:
    torch.manual_seed(0)
    model = adapt(nn.Sequential(base or nn.Linear(IN, OUT)), target_modules=["0"], r=RANK, **settings)
    disturb_(model)
    (layer,) = layers_of(model)
    assert isinstance(layer, Linear)
    return model, layer


def goes_through_the_fused_step(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> bool:
    """Whether `run` goes through the fused step."""
    used = []

    def recorded(*args: Tensor) -> Tensor:
        used.append(True)
        return fused_linear(*args)

    monkeypatch.setattr("deep_lora.layers.linear.fused_linear", recorded)
    run()
    return bool(used)
