"""With nothing but the defaults, all linear layers are adapted, and a new head is trained and saved."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import (
    AutoPeftModel,
    AutoPeftModelForSequenceClassification,
    LoraConfig,
    PeftModel,
    get_peft_model,
    inject_adapter_in_model,
)
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, save_as_lora
from tests.collapse.architectures import ARCHITECTURES, DISTIL, ENCODER, VISION, Architecture
from tests.models import Mixed, adapt, disturb_, gpt2, llama

DISTILBERT = next(one for one in ARCHITECTURES if one.model == "DistilBertForSequenceClassification")
OTHERS = [
    Architecture("DistilBertForTokenClassification", "DistilBertConfig", DISTIL, "classifier", []),
    Architecture("DistilBertForQuestionAnswering", "DistilBertConfig", DISTIL | {"num_labels": 2}, "qa_outputs", []),
    Architecture("DistilBertForMultipleChoice", "DistilBertConfig", DISTIL, "classifier", []),
]
HEADS = [one for one in ARCHITECTURES if one.model != "ResNetForImageClassification"] + OTHERS
TASKS = {"Sequence": "SEQ_CLS", "Token": "TOKEN_CLS", "Question": "QUESTION_ANS"}


def build(one: Architecture, seed: int = 0) -> hf.PreTrainedModel:
    return one.build(**({} if "num_labels" not in one.sizes else {"num_labels": one.sizes["num_labels"]}), seed=seed)


def beside(model: hf.PreTrainedModel) -> set[str]:
    """The names of all parameters that do not belong to the base model."""
    prefix = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix)}


def with_another_head(one: Architecture) -> hf.PreTrainedModel:
    """The same base model under a head that was drawn again, as a fresh process has it."""
    model, other = build(one), build(one, seed=1)
    drawn = dict(other.named_parameters())
    with torch.no_grad():
        for name in beside(model):
            model.get_parameter(name).copy_(drawn[name])
    return model


def inputs(one: Architecture) -> dict[str, Tensor]:
    batch = {name: value for name, value in one.batch().items() if name != "labels"}
    if "MultipleChoice" in one.model:
        return {name: value[:, None].repeat(1, 2, 1) for name, value in batch.items()}
    return batch


def logits(model: nn.Module, one: Architecture) -> Tensor:
    with torch.no_grad():
        output = model.eval()(**inputs(one))
    return output.start_logits if "Question" in one.model else output.logits


def trained_(model: PeftModel) -> PeftModel:
    """Move everything that trains, the update and the head."""
    disturb_(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "deep_lora_" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def is_linear(module: nn.Module) -> bool:
    return type(module).__name__ in ("Linear", "Conv1D")


@pytest.mark.parametrize("one", HEADS, ids=lambda one: one.model)
def test_a_model_with_a_head_needs_no_setting(one: Architecture, tmp_path: Path) -> None:
    """All linear layers of the base model are adapted, the head is trained and saved, and it returns on a fresh one."""
    base = build(one)
    linear = {name for name, module in base.named_modules() if is_linear(module)}
    wanted = {name for name in linear if f"{name}.weight" not in beside(base)}
    head = {f"base_model.model.{name}" for name in beside(base)}
    model = trained_(get_peft_model(base, DeepLoraConfig(r=2)))
    adapted = {name for name, module in model.base_model.model.named_modules() if hasattr(module, "deep_lora_U")}
    whole = {name for name in trainable(model) if "deep_lora_" not in name}
    assert adapted == wanted and wanted
    assert {name.replace("modules_to_save.default.", "") for name in whole} == head and head

    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] is None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        again = PeftModel.from_pretrained(with_another_head(one), str(tmp_path))
    assert torch.equal(logits(again, one), logits(model, one))


@pytest.mark.parametrize("one", [one for one in HEADS if "Image" not in one.model], ids=lambda one: one.model)
@pytest.mark.parametrize("targets", ["all-linear", "names"])
def test_a_task_that_is_named_gives_the_same_and_the_export_is_loaded_as_lora(
    one: Architecture, targets: str, tmp_path: Path
) -> None:
    """PEFT's LoRA stops at DistilBERT's heads, and leaves BART's and XLNet's as they were drawn."""
    task = next((task for word, task in TASKS.items() if f"For{word}" in one.model), None)
    linear = [name for name, module in build(one).named_modules() if is_linear(module)]
    names = linear if targets == "names" else targets
    model = get_peft_model(build(one), DeepLoraConfig(r=2, task_type=task, target_modules=names))
    unset = get_peft_model(build(one), DeepLoraConfig(r=2))
    assert trainable(model) == trainable(unset)

    save_as_lora(tmp_path, trained_(model))
    as_lora = PeftModel.from_pretrained(with_another_head(one), str(tmp_path))
    assert isinstance(as_lora.peft_config["default"], LoraConfig)
    assert torch.allclose(logits(as_lora, one), logits(model, one), atol=1e-5)


def test_lora_itself_stops_at_the_heads_of_distilbert() -> None:
    """The day this fails, `is_target` and `add_head_` may have become simpler."""
    with pytest.raises(TypeError, match="modules_to_save cannot be applied"):
        get_peft_model(DISTILBERT.build(), LoraConfig(target_modules="all-linear", task_type="SEQ_CLS"))


def test_what_the_end_of_a_name_saves_whole_is_not_adapted() -> None:
    """`modules_to_save=["tall"]` is also what PEFT trains of a `not_tall`."""
    model = Mixed()
    model.not_tall = nn.Sequential(nn.Linear(3, 3))
    adapted = adapt(model, r=2, target_modules=["square", "tall", "not_tall.0"], modules_to_save=["tall"])
    found = [name for name, module in adapted.named_modules() if hasattr(module, "deep_lora_U")]
    assert found == ["base_model.model.square"]
    trained = {name.split(".")[2] for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {"square", "tall", "not_tall"}


def test_a_head_stays_frozen_where_the_user_has_decided() -> None:
    for settings in ({"modules_to_save": []}, {"task_type": "FEATURE_EXTRACTION"}, {"inference_mode": True}):
        model = adapt(DISTILBERT.build(), r=2, **settings)
        assert not any("modules_to_save" in name for name, _ in model.named_parameters()), settings
    given = adapt(DISTILBERT.build(), r=2, modules_to_save=["embeddings"]).peft_config["default"]
    assert given.modules_to_save == ["embeddings", "pre_classifier", "classifier"]


def test_a_second_adapter_and_an_injected_one_have_heads_of_their_own() -> None:
    model = get_peft_model(DISTILBERT.build(), DeepLoraConfig(r=2))
    model.add_adapter("second", DeepLoraConfig(r=2))
    assert set(model.base_model.model.pre_classifier.modules_to_save) == {"default", "second"}
    assert not any("deep_lora_" in name for name, _ in model.base_model.model.pre_classifier.named_parameters())
    injected = inject_adapter_in_model(DeepLoraConfig(r=2), DISTILBERT.build())
    assert injected.classifier.modules_to_save["default"].weight.requires_grad


@pytest.mark.parametrize("auto", [AutoPeftModel, AutoPeftModelForSequenceClassification])
def test_a_saved_classifier_is_loaded_without_its_base(auto: type, tmp_path: Path) -> None:
    DISTILBERT.build().save_pretrained(tmp_path / "base")
    base = hf.DistilBertForSequenceClassification.from_pretrained(tmp_path / "base")
    model = trained_(get_peft_model(base, DeepLoraConfig(r=2)))
    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = auto.from_pretrained(str(tmp_path / "adapter"))
    assert torch.equal(logits(loaded, DISTILBERT), logits(model, DISTILBERT))


def test_models_without_a_new_head_get_nothing_to_save() -> None:
    mask = hf.BertForMaskedLM(hf.BertConfig(**ENCODER))
    for model in (llama(), gpt2(), mask, hf.BertModel(hf.BertConfig(**ENCODER)), Mixed()):
        assert adapt(model, r=2).peft_config["default"].modules_to_save is None


def test_a_class_of_the_users_own_has_the_head_of_the_one_it_inherits_from() -> None:
    class Mine(hf.DistilBertForSequenceClassification):
        pass

    config = adapt(Mine(hf.DistilBertConfig(**DISTIL)), r=2).peft_config["default"]
    assert config.modules_to_save == ["pre_classifier", "classifier"]


def test_a_head_is_found_by_its_usual_name_where_no_base_model_is_marked() -> None:
    config = hf.SiglipConfig(vision_config=VISION, num_labels=3)
    model = adapt(hf.SiglipForImageClassification(config), r=2)
    assert model.base_model.model.classifier.modules_to_save["default"].weight.requires_grad


def test_a_head_that_is_not_known_is_named_in_a_warning() -> None:
    class StrangeForSequenceClassification(hf.DistilBertPreTrainedModel):
        def __init__(self, config: hf.DistilBertConfig) -> None:
            super().__init__(config)
            self.distilbert = hf.DistilBertModel(config)
            self.distilbert.inner_head = nn.Linear(8, 2)
            self.post_init()

    def build() -> hf.PreTrainedModel:
        return StrangeForSequenceClassification(hf.DistilBertConfig(**DISTIL))

    with pytest.warns(UserWarning, match="StrangeForSequenceClassification is not known: unless `modules_to_save`"):
        adapt(build(), r=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not known")
        adapt(build(), r=2, modules_to_save=["inner_head"])


def test_a_target_that_lies_in_the_head_alone_is_told_to_be_trained_whole() -> None:
    def build() -> hf.PreTrainedModel:
        return hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL))

    with pytest.warns(UserWarning, match="'classifier', which lies in the head of the Distil.*not adapted; pass `mod"):
        model = adapt(build(), r=2, target_modules=["q_lin", "classifier"])
    assert trainable(model.base_model.model.classifier) == {
        "modules_to_save.default.weight",
        "modules_to_save.default.bias",
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lies in the head")
        adapt(build(), r=2, target_modules=["q_lin", "lin1"])
        adapted = adapt(build(), r=2, target_modules=["q_lin", "classifier"], modules_to_save=[])
    assert "deep_lora_V.default" in trainable(adapted.base_model.model.classifier)


@pytest.mark.parametrize("settings", [{}, {"task_type": "SEQ_CLS"}, {"modules_to_save": ["classifier"]}])
def test_a_parameter_of_what_is_saved_whole_is_refused(settings) -> None:
    def build() -> hf.PreTrainedModel:
        return hf.DistilBertForSequenceClassification(hf.DistilBertConfig(**DISTIL))

    named = {"r": 2, "target_modules": ["q_lin"], "target_parameters": ["classifier.weight"]}
    with pytest.raises(ValueError, match="'classifier.weight', but 'classifier' is trained and saved whole; leave"):
        adapt(build(), **named, **settings)
    adapted = adapt(build(), **named, modules_to_save=[])
    assert "deep_lora_V.default" in trainable(adapted.base_model.model.classifier)
