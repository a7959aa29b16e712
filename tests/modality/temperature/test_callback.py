"""The temperature follows the schedule of a Trainer, whatever holds it, and is in the log."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from modality import (
    ContrastiveModel,
    CosineAlternation,
    LinearSchedule,
    Temperature,
    TemperatureScheduleCallback,
    find_temperature,
)
from tests.modality.trainers import clip, logged, trainer

SCHEDULE = LinearSchedule(0.01, 0.07)


def adapted():
    return get_peft_model(clip(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["visual_projection"]))


MODELS = {
    "our temperature": lambda: ContrastiveModel(clip(), temperature=Temperature(mode="scheduled")),
    "learnable temperature": lambda: ContrastiveModel(clip(), temperature=Temperature(mode="learnable")),
    "wrapped logit_scale": lambda: ContrastiveModel(clip()),
    "adapted": lambda: ContrastiveModel(adapted()),
    "plain transformers": clip,
    "plain PEFT": adapted,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_tau_is_that_of_the_step_in_every_entry_of_the_log(build, tmp_path) -> None:
    model = build()
    run = trainer(tmp_path, model, callbacks=[TemperatureScheduleCallback(SCHEDULE)], weight_decay=0.1)
    if not isinstance(model, ContrastiveModel):
        collate = run.data_collator
        run.data_collator = lambda samples: collate(samples) | {"return_loss": True}
    run.train()
    assert logged(run, "tau") == pytest.approx([SCHEDULE(step / 6) for step in range(6)], rel=1e-6)
    assert not any(
        p.requires_grad for name, p in model.named_parameters() if "logit_scale" in name or name.endswith("nu")
    )


def test_the_loss_of_a_step_is_that_at_its_temperature(tmp_path) -> None:
    run = trainer(
        tmp_path, ContrastiveModel(clip()), callbacks=[TemperatureScheduleCallback(CosineAlternation(0.02, 2.0, 3.0))],
        learning_rate=0.0, count=4,
    )  # fmt: skip
    run.train()
    batch = run.train_dataset.batch()
    expected = []
    for tau in logged(run, "tau"):
        model = ContrastiveModel(clip(), temperature=Temperature(tau)).eval()
        expected.append(model(**batch).loss.item())
    assert logged(run, "loss") == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 3) for value in expected}) > 1


def test_through_a_trainer_every_reporter_gets_tau(tmp_path) -> None:
    run = trainer(tmp_path, ContrastiveModel(clip()), report_to="tensorboard")
    run.add_callback(TemperatureScheduleCallback(SCHEDULE, trainer=run))
    run.train()
    events = EventAccumulator(str(next(tmp_path.rglob("events*")).parent))
    events.Reload()
    values = [event.value for event in events.Scalars("train/tau")]
    assert values == pytest.approx([SCHEDULE(step / 6) for step in range(6)], rel=1e-6)
    assert logged(run, "tau") == pytest.approx(values)


def test_the_temperature_is_out_of_training_before_the_optimizer_is_made(tmp_path) -> None:
    model = ContrastiveModel(clip())
    run = trainer(tmp_path, model, callbacks=[TemperatureScheduleCallback(SCHEDULE)])
    assert not model.model.logit_scale.requires_grad
    optimizer = run.create_optimizer()
    assert all(p is not model.model.logit_scale for group in optimizer.param_groups for p in group["params"])


def test_a_schedule_may_be_any_function(tmp_path) -> None:
    model = ContrastiveModel(clip(), temperature=Temperature())
    run = trainer(tmp_path, model, callbacks=[TemperatureScheduleCallback(lambda p: 0.1 if p < 0.5 else 0.2)])
    run.train()
    assert logged(run, "tau") == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert torch.equal(model.temperature(), Temperature(0.2)())


def driven(callback, model, step=3):
    """The callback at one step of six, as a Trainer calls it."""
    state, nothing = SimpleNamespace(global_step=step, max_steps=6), None
    callback.on_train_begin(nothing, state, nothing, model=model)
    callback.on_step_begin(nothing, state, nothing)
    return SCHEDULE(step / 6)


def test_one_schedule_drives_several_scales_of_a_model() -> None:
    model = nn.Module()
    model.logit_scale_a, model.logit_scale_t = (nn.Parameter(torch.tensor(2.0)) for _ in range(2))
    tau = driven(TemperatureScheduleCallback(SCHEDULE, parameter=["logit_scale_a", "logit_scale_t"]), model)
    for scale in model.parameters():
        assert scale.item() == pytest.approx(-math.log(tau)) and not scale.requires_grad
    with pytest.raises(ValueError, match="Module has 2 temperatures to set"):
        driven(TemperatureScheduleCallback(SCHEDULE), model)
    with pytest.raises(ValueError, match="`parameter` names no temperature; leave it out if the model has one"):
        TemperatureScheduleCallback(SCHEDULE, parameter=[])


@pytest.mark.parametrize("kind", [nn.Module, nn.ModuleList])  # an empty list is false
def test_a_temperature_outside_of_the_trained_model_is_driven_where_it_is(kind) -> None:
    model, loss = nn.Linear(2, 2), kind()
    loss.temperature = Temperature(0.05, mode="scheduled")
    tau = driven(TemperatureScheduleCallback(SCHEDULE, module=loss), model)
    assert loss.temperature.tau == pytest.approx(tau) and model.weight.requires_grad


SMALL = {"num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: hf.XCLIPModel(hf.XCLIPConfig(text_config=SMALL, vision_config=SMALL)), "logit_scale"),
        (lambda: hf.FlavaModel(hf.FlavaConfig(text_config=SMALL, image_config=SMALL, multimodal_config=SMALL)),
         "logit_scale"),
    ],
    ids=["x-clip", "flava"],
)  # fmt: skip
def test_the_temperatures_of_further_models_are_found(build, name) -> None:
    with torch.device("meta"):
        assert find_temperature(build()).name == name


def test_blip_2_has_no_temperature_to_drive() -> None:
    config = hf.Blip2Config(vision_config=SMALL, qformer_config=SMALL, text_config=SMALL | {"model_type": "opt"})
    with torch.device("meta"):
        model = hf.Blip2ForImageTextRetrieval(config)
    with pytest.raises(ValueError, match="Blip2ForImageTextRetrieval has 0 temperatures to set"):
        find_temperature(model)
