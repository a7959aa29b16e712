"""Chunks and activation checkpointing: the gradients of the whole batch, or an error, and never nothing."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from modality import ContrastiveModel, DualEncoder, Temperature, encode_in_chunks
from tests.modality.trainers import WIDTH, Pairs, bert, chinese_clip, clip, siglip, trainer

REENTRANT = {"use_reentrant": True}
REFUSAL = "chunks found reentrant checkpointing in the encoder.*`use_reentrant=False`.*leave out `chunk_size`"
BUILDS = {"clip": clip, "siglip": siglip, "chinese clip": chinese_clip}


def adapted(build):
    torch.manual_seed(0)
    base = build()
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False))
    model.enable_input_require_grads()
    return model


def gradients(model, **batch):
    model.train()(**batch).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
@pytest.mark.parametrize("name", ["gradient_checkpointing_enable", "activation_checkpointing_enable"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reentrant_checkpointing_that_the_wrapper_enables_is_replaced(build, name) -> None:
    found = []
    for chunk_size in (None, 4):
        model = ContrastiveModel(adapted(build), temperature=Temperature(0.1), chunk_size=chunk_size)
        if chunk_size and hasattr(model.model, name):
            with pytest.warns(UserWarning, match="chunks cannot differentiate reentrant checkpointing"):
                getattr(model, name)(REENTRANT)
        found.append(gradients(model, **Pairs(10).batch()))
    assert len(found[0]) > 3 and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_with_reentrant_checkpointing_trains_chunks(tmp_path) -> None:
    ends = []
    for settings in ({}, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": REENTRANT}):
        model = ContrastiveModel(adapted(clip), temperature=Temperature(0.1), chunk_size=2)
        start = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        trainer(tmp_path, model, **settings).train()
        ends.append([p.detach() for p in model.parameters() if p.requires_grad])
        assert all(not torch.equal(*pair) for pair in zip(start, ends[-1], strict=True))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_reentrant_checkpointing_that_was_enabled_before_is_refused() -> None:
    inner = adapted(clip)
    inner.get_base_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs=REENTRANT)
    model = ContrastiveModel(inner, temperature=Temperature(0.1), chunk_size=4)
    with pytest.raises(ValueError, match=REFUSAL):
        gradients(model, **Pairs(10).batch())
    tower = bert()
    tower.enable_input_require_grads()
    tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs=REENTRANT)
    two = DualEncoder(nn.Identity(), tower, x_width=WIDTH, y_width=WIDTH, chunk_size=4)
    with pytest.raises(ValueError, match=REFUSAL):
        gradients(two, x=torch.randn(10, WIDTH), y={"input_ids": Pairs(10).tokens})


class Own(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 3), reentrant

    def forward(self, x):
        return self.second(checkpoint(self.first, x, use_reentrant=self.reentrant))


def test_a_checkpoint_in_a_module_of_ones_own_is_refused_only_if_it_is_reentrant() -> None:
    x = torch.randn(9, 4, requires_grad=True)
    with pytest.raises(ValueError, match=REFUSAL):
        encode_in_chunks(Own(True), x, 4).sum().backward()
    kept = Own(False)
    encode_in_chunks(kept, x, 4).sum().backward()
    chunked = kept.first.weight.grad.clone()
    kept.zero_grad()
    kept(x).sum().backward()
    torch.testing.assert_close(chunked, kept.first.weight.grad)
