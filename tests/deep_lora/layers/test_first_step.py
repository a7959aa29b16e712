"""Weight decay pulls an update to zero; of cores that hold their start it is told at the first step."""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim import optimizer as torch_optimizer
from transformers import Trainer, TrainingArguments

from deep_lora import DeepLoraCallback, create_optimizer
from tests.models import LAYER_CASES, adapt, bert_classifier, disturb_, layers_of, llama

BEFORE = {"deep_lora_version": 2}  # when cores held their start
WARNING = "has a weight decay of 0.01 for the cores"
OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=0.01),
    "groups": lambda p: torch.optim.AdamW([{"params": [q], "weight_decay": 0.01} for q in p], weight_decay=0.0),
}


def hooks() -> int:
    """Count the hooks of all optimizers, when those of models that are gone have left with a step of another."""
    gc.collect()
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0).step()
    return len(torch_optimizer._global_optimizer_pre_hooks)


def step(model: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> list[str]:
    """Take a step, and return the warnings about decay."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss.backward()
        optimizer.step()
    return [str(warning.message) for warning in caught if "weight decay" in str(warning.message)]


def outputs(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    found = model(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def decay(model: nn.Module) -> None:
    """Take steps without any gradient, as of a layer that the data do not reach."""
    optimizer = torch.optim.AdamW(trained(model), lr=0.1, weight_decay=5.0)
    for parameter in trained(model):
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(30):
        optimizer.step()


def sizes(model: nn.Module) -> list[float]:
    return [layer.get_delta_weight("default").abs().max().item() for layer in layers_of(model)]


@pytest.mark.parametrize("case", LAYER_CASES)
@pytest.mark.parametrize("depth", [1, 3])
def test_decay_without_a_gradient_keeps_the_identity_and_takes_a_trained_update_back_to_it(case, depth) -> None:
    base, _, settings = LAYER_CASES[case]
    model = adapt(base(), r=2, depth=depth, **settings)
    decay(model)
    assert not any(sizes(model))
    model = adapt(base(), r=2, depth=depth, **settings)
    disturb_(model)
    before = sizes(model)
    decay(model)  # U, V and one core by 2^-30 each
    assert all(0 < size < 1e-20 * old for size, old in zip(sizes(model), before, strict=True))


@pytest.mark.parametrize(
    ("case", "make"), [*((case, "AdamW") for case in LAYER_CASES), *(("linear", make) for make in list(OPTIMIZERS)[1:])]
)
def test_decay_is_told_of_once_in_every_layer_and_leaves_no_hook(case, make) -> None:
    before = hooks()
    base, inputs, settings = LAYER_CASES[case]
    model = adapt(base(), r=2, **settings, **BEFORE)
    optimizer = OPTIMIZERS[make](trained(model))
    found = [message for _ in range(3) for message in step(model, outputs(model, inputs).sum(), optimizer)]
    assert len(found) == 1 and WARNING in found[0]
    assert hooks() == before


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({}, lambda model: torch.optim.AdamW(trained(model))),
        (BEFORE, lambda model: torch.optim.AdamW(trained(model), weight_decay=0.0)),
        (BEFORE, lambda model: create_optimizer(model, num_steps=3)),
        ({"subtract_start": False, "init_scale": 0.1}, lambda model: torch.optim.AdamW(trained(model))),
        ({"variant": "narrow"}, lambda model: torch.optim.AdamW(trained(model))),
    ],
    ids=["differences", "no decay", "create_optimizer", "not subtracted", "narrow"],
)
def test_nothing_is_said_where_the_identity_stays(settings, make) -> None:
    before = hooks()
    model = adapt(nn.Sequential(nn.Linear(6, 6)), r=2, target_modules=["0"], **settings)
    optimizer = make(model)
    assert not step(model, model(torch.ones(2, 6)).sum(), optimizer)
    assert hooks() == before


def test_optimizers_of_others_do_not_use_the_warning_up() -> None:
    model = adapt(nn.Sequential(nn.Linear(6, 6)), r=2, target_modules=["0"], **BEFORE)
    other = get_peft_model(nn.Sequential(nn.Linear(6, 6)), LoraConfig(r=2, target_modules=["0"]))
    model(torch.ones(2, 6)).sum().backward()
    x = torch.ones(2, 6)
    assert not step(other, other(x).sum(), torch.optim.AdamW(trained(other)))
    assert WARNING in step(model, model(x).sum(), torch.optim.AdamW(trained(model)))[0]


def test_a_model_that_is_gone_is_not_waited_for_and_a_copy_is() -> None:
    before = hooks()
    model = adapt(nn.Sequential(nn.Linear(6, 6)), r=2, target_modules=["0"], **BEFORE)
    twin = copy.deepcopy(model)
    model(torch.ones(2, 6)).sum().backward()
    del model
    gc.collect()
    plain = nn.Linear(2, 2)
    assert not step(plain, plain(torch.ones(2, 2)).sum(), torch.optim.AdamW(plain.parameters()))
    assert hooks() == before
    assert WARNING in step(twin, twin(torch.ones(2, 6)).sum(), torch.optim.AdamW(trained(twin)))[0]


@pytest.mark.parametrize(
    ("base", "decay", "settings"), [(llama, 0.0, BEFORE), (llama, 0.01, BEFORE), (bert_classifier, 0.01, {})]
)
def test_a_plain_trainer_is_warned(base, decay, settings, tmp_path) -> None:
    model = adapt(base(), r=2, target_modules=["query" if base is bert_classifier else "q_proj"], **settings)
    labels = torch.tensor(1) if base is bert_classifier else torch.arange(4)
    items = [{"input_ids": torch.arange(4), "labels": labels}] * 4
    args = TrainingArguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to="none", weight_decay=decay, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(model, args, train_dataset=items, callbacks=[DeepLoraCallback()]).train()
    assert sum(WARNING in str(warning.message) for warning in caught) == (decay > 0 and settings == BEFORE)
