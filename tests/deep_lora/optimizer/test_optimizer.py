"""Parameter groups with the rate of U and V, and the optimizers made of them."""

import copy

import pytest
import torch
import transformers
from torch import nn
from transformers import Trainer, TrainingArguments

from deep_lora import DeepLoraConfig, create_optimizer, parameter_groups
from tests.models import Mixed, adapt, adapter_tensors, bert_classifier, ids, layers_of, llama

TARGETS = ["embedding", "square", "tall"]


def _by_name(groups: list[dict]) -> dict[str, list[dict]]:
    return {name: [g for g in groups if g["name"] == name] for name in {g["name"] for g in groups}}


def _ids_of(groups: list[dict]) -> list[int]:
    return [id(p) for group in groups for p in group["params"]]


def test_cores_and_bases_have_their_own_rates() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS)
    core, bases = parameter_groups(model, lr=1e-2, gamma=0.1)
    assert (core["name"], core["lr"]) == ("deep_lora_core", 1e-2)
    assert (bases["name"], bases["lr"]) == ("deep_lora_subspaces", pytest.approx(1e-3))
    layers = layers_of(model)
    assert {id(p) for p in core["params"]} == {id(layer.deep_lora_core["default"]) for layer in layers}
    wanted = {id(side["default"]) for layer in layers for side in (layer.deep_lora_U, layer.deep_lora_V)}
    assert {id(p) for p in bases["params"]} == wanted


@pytest.mark.parametrize("settings,ratio", [({}, 1.0), ({"gamma": 0.01}, 0.01), ({"gamma": 1.0}, 1.0)])
def test_gamma_is_the_rate_of_the_subspaces_relative_to_the_cores(settings: dict, ratio: float) -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS)
    groups = _by_name(parameter_groups(model, lr=2e-3, **settings))
    assert [g["lr"] for g in groups["deep_lora_subspaces"]] == [pytest.approx(ratio * 2e-3)]


@pytest.mark.parametrize("gamma", [1.0, 0.1])
def test_frozen_subspaces_stay_so_for_good(gamma: float) -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS, freeze_subspaces=True)
    groups = parameter_groups(model, lr=1e-2, gamma=gamma)
    assert [g["name"] for g in groups] == ["deep_lora_core"]
    model.set_adapter("default")
    trainable = {name for name, p in adapter_tensors(model).items() if p.requires_grad}
    assert len(trainable) == 3 and all("deep_lora_core" in name for name in trainable)


def test_adapters_with_different_rates_of_their_subspaces_get_one_group_for_each() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS)
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=["square"], variant="narrow"))
    model.base_model.set_adapter(["default", "second"])
    groups = _by_name(parameter_groups(model, lr=1.0, gamma=0.5))
    assert [(g["lr"], len(g["params"])) for g in groups["deep_lora_subspaces"]] == [(1.0, 2), (0.5, 6)]
    assert len(groups["deep_lora_core"][0]["params"]) == 4


def test_shared_parameters_of_tied_weights_appear_once() -> None:
    settings = {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}
    model = adapt(llama(tie_word_embeddings=True), r=2, **settings)
    members = _ids_of(parameter_groups(model, lr=1e-2))
    assert len(members) == len(set(members)) == 3


@pytest.mark.parametrize("variant", ["compressed", "narrow", "wide"])
def test_everything_trainable_is_there_once_and_nothing_frozen(variant: str) -> None:
    settings = {"variant": variant, "bias": "all", "modules_to_save": ["norm", "head"]}
    model = adapt(Mixed(), r=2, target_modules=TARGETS, **settings)
    model.add_adapter("idle", DeepLoraConfig(r=2, target_modules=TARGETS))
    members = _ids_of(parameter_groups(model, lr=1e-2, weight_decay=0.1))
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert trainable and sorted(members) == sorted(trainable)


def test_weight_decay_is_for_matrices_only() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS, bias="all", modules_to_save=["head", "norm"])
    groups = parameter_groups(model, lr=1e-2, weight_decay=0.1)
    assert {g["name"] for g in groups} == {"deep_lora_core", "deep_lora_subspaces", "other", "other_no_decay"}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        assert group["weight_decay"] in (0.0, 0.1)


def test_what_is_beside_the_adapter_has_the_rate_of_the_cores() -> None:
    model = adapt(Mixed(), r=2, target_modules=["square"], modules_to_save=["head"], bias="all")
    rates = {g["name"]: g["lr"] for g in parameter_groups(model, lr=1.0, gamma=0.5)}
    assert rates == {"deep_lora_core": 1.0, "deep_lora_subspaces": 0.5, "other": 1.0, "other_no_decay": 1.0}
    assert {g["name"]: g["lr"] for g in create_optimizer(model, lr=1.0, gamma=0.5).param_groups} == rates


def test_the_variants_with_one_rate_ignore_gamma() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS, variant="narrow")
    assert {g["lr"] for g in parameter_groups(model, lr=1e-2, gamma=0.1)} == {1e-2}
    assert {g["lr"] for g in parameter_groups(model, lr=1e-2)} == {1e-2}
    assert all(p.requires_grad for p in adapter_tensors(model).values())


def test_adam_gets_the_small_eps_of_the_paper_unless_told_otherwise() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS)
    assert {g["eps"] for g in create_optimizer(model, lr=1e-3).param_groups} == {1e-6}
    assert {g["eps"] for g in create_optimizer(model, lr=1e-3, eps=1e-8).param_groups} == {1e-8}
    assert isinstance(create_optimizer(model, lr=1e-3), torch.optim.AdamW)


def test_an_optimizer_without_eps_works_and_gets_its_own_options() -> None:
    optimizer = create_optimizer(adapt(Mixed(), r=2, target_modules=TARGETS), torch.optim.SGD, lr=1e-3, momentum=0.5)
    assert isinstance(optimizer, torch.optim.SGD) and {g["momentum"] for g in optimizer.param_groups} == {0.5}
    assert all("eps" not in g for g in optimizer.param_groups)


@pytest.mark.parametrize("optimizer_cls", [torch.optim.Adafactor, transformers.Adafactor])
def test_an_eps_that_is_no_number_stays_the_optimizers_own(optimizer_cls) -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS, init_weights=False)
    options = {} if optimizer_cls is torch.optim.Adafactor else {"relative_step": False}
    optimizer = create_optimizer(model, optimizer_cls, lr=1e-3, **options)
    before = copy.deepcopy(adapter_tensors(model))
    model(ids()).sum().backward()
    optimizer.step()
    assert all((tensor - before[name]).any() for name, tensor in adapter_tensors(model).items())


def test_a_step_moves_every_trainable_parameter_and_no_other() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS, init_weights=False, modules_to_save=["head"])
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = create_optimizer(model, lr=1e-2, gamma=0.1)
    (model(ids()) - 1).square().mean().backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and moved == {name for name, p in model.named_parameters() if p.requires_grad}


class Samples(torch.utils.data.Dataset):
    """16 random sentences; the label is whether the first token is in the upper half of the vocabulary."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = ids(16)[index]
        return {"input_ids": row, "labels": (row[0] > 20).long()}


def test_the_trainer_takes_the_optimizer_and_keeps_the_ratio_of_the_rates(tmp_path) -> None:
    model = adapt(bert_classifier(), r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
    optimizer = create_optimizer(model, lr=3e-3, gamma=0.1)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=20, per_device_train_batch_size=8, logging_steps=1, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, lr_scheduler_type="linear", warmup_steps=2,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Samples(), optimizers=(optimizer, None))
    ratios = []
    optimizer.register_step_pre_hook(
        lambda opt, *_: (
            ratios.append(opt.param_groups[1]["lr"] / opt.param_groups[0]["lr"]) if opt.param_groups[0]["lr"] else None
        )
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20 and sum(losses[-5:]) < sum(losses[:5])
    assert ratios and all(ratio == pytest.approx(0.1) for ratio in ratios)


def test_eight_bit_adam_takes_the_groups() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = adapt(Mixed(), r=2, target_modules=TARGETS, init_weights=False)
    optimizer = create_optimizer(model, bnb.optim.Adam8bit, lr=1e-2, gamma=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [1e-2, pytest.approx(1e-3)]
    assert {g["eps"] for g in optimizer.param_groups} == {1e-6}


def test_any_module_that_holds_adapted_layers_will_do() -> None:
    model = adapt(Mixed(), r=2, target_modules=TARGETS)
    outer = nn.ModuleList([model, nn.Linear(2, 2)])
    assert {g["name"] for g in parameter_groups(outer, lr=1e-2)} == {
        "deep_lora_core", "deep_lora_subspaces", "other", "other_no_decay",
    }  # fmt: skip


def test_arguments_that_do_not_go_together_are_named() -> None:
    model = adapt(bert_classifier(), r=2, target_modules=["query"])
    with pytest.raises(ValueError, match="the number of optimizer steps is missing; pass `num_steps=`"):
        create_optimizer(model)
    with pytest.raises(ValueError, match="`path`, `max_grad_norm` and `likelihood` belong to the step rule"):
        create_optimizer(model, lr=1e-3, max_grad_norm=1.0)
    with pytest.raises(ValueError, match="`gamma` scales a learning rate, which with `num_steps` does not affect"):
        create_optimizer(model, num_steps=20, gamma=0.1)
