"""`disable_adapter()` around a checkpointed forward pass, whose backward pass comes after the block."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.models import adapt, disturb_, gpt2, ids, layers_of, llama

TARGETS = {llama: ["q_proj", "down_proj"], gpt2: ["c_attn"]}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Those of the norms, which are trained beside the adapter, of a forward pass without the adapter."""
    model.zero_grad()
    with model.disable_adapter():
        logits = model(input_ids=ids()).logits
    logits.log_softmax(-1)[..., 0].mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("base", TARGETS, ids=lambda base: base.__name__)
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_what_ran_without_the_adapter_is_computed_again_without_it(base, use_reentrant) -> None:
    torch.manual_seed(0)
    model = adapt(base(), r=2, target_modules=TARGETS[base]).train()
    disturb_(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_" in name:
            parameter.requires_grad_(True)
    wanted = gradients(model)
    assert wanted and all(layer.deep_lora_U["default"].grad is None for layer in layers_of(model))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    for again in (model, copy.deepcopy(model)):
        found = gradients(again)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient)
    model(input_ids=ids()).logits.square().mean().backward()
    assert all(layer.deep_lora_core["default"].grad.abs().sum() > 0 for layer in layers_of(model))
