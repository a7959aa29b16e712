"""The drift of a language model from its base, against the definitions."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from deep_lora import DeepLoraConfig, DriftCallback
from deep_lora.drift import drift, token_sums, update_share
from tests.models import adapt, disturb_, ids, llama

TARGETS = ["q_proj", "down_proj"]
DATA = [{"input_ids": row, "labels": row} for row in ids(8)]
TEXT = ids(6)


def configs() -> list:
    return [
        LoraConfig(r=2, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM"),
        DeepLoraConfig(r=2, target_modules=TARGETS, task_type="CAUSAL_LM"),
    ]


def trainer_of(model, folder, **settings) -> Trainer:
    options = {"max_steps": 3, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), **options | {"learning_rate": 0.05} | settings)
    return Trainer(model, arguments, train_dataset=DATA, eval_dataset=DATA[:4])


@pytest.mark.parametrize("config", configs(), ids=["lora", "deep_lora"])
def test_all_values_are_those_of_the_definitions(config) -> None:
    base = llama().eval()
    model = get_peft_model(copy.deepcopy(base), config)
    if isinstance(config, DeepLoraConfig):
        disturb_(model)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.train()
    found = drift(model, TEXT)
    assert model.training and trained == {name: p.requires_grad for name, p in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        p, q = (one(TEXT).logits[:, :-1].double().log_softmax(-1) for one in (model, base))
    targets = TEXT[:, 1:, None]
    assert found["general_perplexity"] == pytest.approx(math.exp(-p.gather(-1, targets).mean()), rel=1e-5)
    assert found["general_perplexity_of_base"] == pytest.approx(math.exp(-q.gather(-1, targets).mean()), rel=1e-5)
    divergence = nn.functional.kl_div(q, p, log_target=True, reduction="sum") / targets.numel()  # KL(p || q)
    assert found["general_kl"] == pytest.approx(divergence.item(), rel=1e-4) and found["general_kl"] > 0
    merged = copy.deepcopy(model).merge_and_unload()
    pairs = [(merged.get_submodule(name).weight, base.get_submodule(name).weight)
             for name, module in base.named_modules() if name.endswith(tuple(TARGETS))]  # fmt: skip
    moved, size = (sum(value.square().sum() for value in values) for values in
                   ([a - b for a, b in pairs], [b for _, b in pairs]))  # fmt: skip
    assert len(pairs) == 4 and found["update_share"] == pytest.approx((moved / size).sqrt().item(), rel=1e-4)


def test_the_updates_of_several_adapters_add_up() -> None:
    base, config = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), {"r": 2, "init_lora_weights": False}
    model = get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=["0"], **config), "one")
    model.add_adapter("two", LoraConfig(target_modules=["0", "1"], **config))
    model.base_model.set_adapter(["one", "two"])
    share = update_share(model)
    merged = copy.deepcopy(model).merge_and_unload()
    moved = sum((merged[i].weight - base[i].weight).square().sum() for i in (0, 1))
    assert share == pytest.approx((moved / sum(base[i].weight.square().sum() for i in (0, 1))).sqrt().item(), rel=1e-5)


def test_a_fresh_adapter_has_not_drifted_and_training_drifts(tmp_path) -> None:
    model = adapt(llama(), r=2, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer = trainer_of(model, tmp_path, eval_strategy="steps", eval_steps=1, max_steps=2)
    callback = DriftCallback(trainer, TEXT)
    trainer.add_callback(callback)
    trainer.train()
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "eval_general_kl" in entry}
    assert list(logged) == [0, 1, 2]
    assert abs(logged[0]["eval_general_kl"]) < 1e-7 and logged[0]["eval_update_share"] == 0
    assert logged[0]["eval_general_perplexity"] == pytest.approx(logged[2]["eval_general_perplexity_of_base"])
    assert logged[2]["eval_general_kl"] > 1e-6 and logged[2]["eval_update_share"] > logged[1]["eval_update_share"] > 0
    found = trainer.evaluate(metric_key_prefix="validation")
    assert found["validation_general_kl"] == logged[2]["eval_general_kl"] == callback.latest["general_kl"]


def test_measuring_changes_nothing_of_the_training(tmp_path) -> None:
    weights = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = adapt(llama(attention_dropout=0.3), r=2, target_modules=TARGETS, deep_lora_dropout=0.3)
        trainer = trainer_of(model, tmp_path, eval_strategy="steps", eval_steps=1)
        if watched:
            trainer.add_callback(DriftCallback(trainer, TEXT))
        trainer.train()
        weights.append([parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_method_without_an_update_of_weights_has_no_share() -> None:
    assert update_share(nn.Linear(2, 2)) is None


def test_a_divergence_is_not_negative_and_zero_for_equal_predictions() -> None:
    own, base = (torch.randn(2, 3, 11).log_softmax(-1) for _ in range(2))
    targets = torch.randint(11, (2, 3))
    assert token_sums(own, base, targets)[2] > 0 and token_sums(own, own, targets)[2] == 0


def test_what_cannot_be_measured_is_refused(tmp_path) -> None:
    with pytest.raises(TypeError, match="so the Trainer needs a PeftModel, but it has a LlamaForCausalLM"):
        DriftCallback(trainer_of(llama(), tmp_path), TEXT)
    trainer = trainer_of(adapt(llama(), r=2, target_modules=TARGETS), tmp_path)
    for tokens in (TEXT[:, :1], TEXT[0], TEXT[:0]):
        with pytest.raises(ValueError, match=r"`tokens` must have the shape \(blocks, length\), with at least 2"):
            DriftCallback(trainer, tokens)
