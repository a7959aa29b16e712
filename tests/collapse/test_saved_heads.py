"""Heads come back whole: inner layers under PEFT, learned scales, and classes that fill a head by themselves."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_base_model_state_dict
from torch import nn

from collapse import (
    HeadObserver,
    NormalizedClassifier,
    SimplexClassifier,
    find_head,
    load_normalized_classifier,
    normalize_classifier_,
    normalized_class,
)
from tests.collapse.architectures import ARCHITECTURES, BART, VISION
from tests.collapse.trainers import train
from tests.models import VOCABULARY

T5 = {"vocab_size": VOCABULARY, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2, "num_labels": 3}
INNER = [a for a in ARCHITECTURES if a.model.startswith(("Bart", "Roberta", "Electra", "Distil", "XLNet", "Modern"))]
BART_MODEL = next(architecture for architecture in INNER if architecture.model.startswith("Bart"))
each_inner = pytest.mark.parametrize("architecture", INNER, ids=lambda a: a.model)


def bases(architecture, folder):
    """Two models from a checkpoint of the base model alone, whose heads start differently."""
    pretrained = architecture.build()
    getattr(pretrained, pretrained.base_model_prefix).save_pretrained(folder)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(type(pretrained).from_pretrained(folder, num_labels=3))
        normalize_classifier_(found[-1], 6.0)
    return found


def adapted(base, architecture, names):
    return get_peft_model(base, LoraConfig(r=2, target_modules=architecture.targets, modules_to_save=names))


def logits(model, architecture):
    with torch.no_grad():
        return model.eval()(**architecture.batch()).logits


@each_inner
def test_the_modules_to_save_hold_every_layer_that_the_base_model_lacks(architecture, tmp_path) -> None:
    first, second = bases(architecture, tmp_path / "base")
    names = find_head(first).modules_to_save
    assert architecture.head.split(".")[0] in names and first.base_model_prefix not in names
    model = adapted(first, architecture, names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(model.train(), architecture)
    model.save_pretrained(tmp_path / "adapter")
    assert find_head(model).modules_to_save == names
    again = PeftModel.from_pretrained(second, tmp_path / "adapter")
    assert torch.equal(logits(again, architecture), logits(model, architecture))


@pytest.mark.parametrize("architecture", [a for a in INNER if "." in a.head], ids=lambda a: a.model)
def test_the_name_of_a_head_saves_its_inner_layers_too(architecture, tmp_path) -> None:
    first, second = bases(architecture, tmp_path / "base")
    model = adapted(first, architecture, [find_head(first).name])
    train(model.train(), architecture)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(second, tmp_path / "adapter")
    assert torch.equal(logits(again, architecture), logits(model, architecture))


@pytest.mark.parametrize("architecture", [a for a in INNER if "Distil" not in a.model], ids=lambda a: a.model)
def test_a_head_without_what_its_checkpoint_lacks_is_refused_at_the_first_training_batch(
    architecture, tmp_path
) -> None:
    model = adapted(bases(architecture, tmp_path)[0], architecture, [architecture.head])
    logits(model, architecture)
    wanted = re.escape(str(find_head(model).modules_to_save))
    with pytest.raises(ValueError, match=f"neither trains nor saves .* the base model lacks too.*{wanted}` to PEFT"):
        train(model.train(), architecture)


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_head_alone_is_warned_of_once_unless_the_checkpoint_has_its_inner_layers(is_saved, tmp_path) -> None:
    start = BART_MODEL.build()
    if is_saved:
        start.save_pretrained(tmp_path)
        start = type(start).from_pretrained(tmp_path)
    normalize_classifier_(start, 6.0)
    model = adapted(start, BART_MODEL, [BART_MODEL.head])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            train(model.train(), BART_MODEL)
    texts = [str(warning.message) for warning in caught if "neither trains nor saves" in str(warning.message)]
    assert len(texts) == (0 if is_saved else 1)
    assert all("pass `modules_to_save=['classification_head']` to PEFT" in text for text in texts)


def test_without_a_base_model_of_its_own_the_head_alone_is_to_be_saved() -> None:
    assert find_head(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), "1").modules_to_save == ["1"]


@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], ARCHITECTURES[2], ARCHITECTURES[-4]], ids=lambda a: a.model)
@pytest.mark.parametrize("low_memory", [False, True])
def test_an_adapter_brings_its_learned_scale_to_a_base_that_was_normalized_without(
    architecture, low_memory, tmp_path
) -> None:
    start = architecture.build()
    normalize_classifier_(start, 5.0, learnable_scale=True)
    model = get_peft_model(
        start, LoraConfig(r=2, target_modules=architecture.targets, modules_to_save=find_head(start).modules_to_save)
    )
    copy = next(head for path, head in find_head(model).copies.items() if ".modules_to_save." in path)
    nn.init.constant_(copy.log_temperature_ratio, 0.4)
    model.save_pretrained(tmp_path)
    other = architecture.build()
    normalize_classifier_(other, 7.0)
    again = PeftModel.from_pretrained(other, tmp_path, low_cpu_mem_usage=low_memory)
    torch.testing.assert_close(logits(again, architecture), logits(model, architecture))
    again.load_adapter(tmp_path, "second", low_cpu_mem_usage=low_memory)
    again.set_adapter("second")
    torch.testing.assert_close(logits(again, architecture), logits(model, architecture))


@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], ARCHITECTURES[2], ARCHITECTURES[-4]], ids=lambda a: a.model)
@pytest.mark.parametrize("low_memory", [False, True])
def test_an_adapter_with_a_fixed_scale_goes_on_a_base_whose_scale_is_learned(
    architecture, low_memory, tmp_path
) -> None:
    start = architecture.build()
    normalize_classifier_(start, 5.0)
    model = get_peft_model(
        start, LoraConfig(r=2, target_modules=architecture.targets, modules_to_save=find_head(start).modules_to_save)
    )
    model.save_pretrained(tmp_path)
    other = architecture.build()
    normalize_classifier_(other, 7.0, learnable_scale=True)
    again = PeftModel.from_pretrained(other, tmp_path, low_cpu_mem_usage=low_memory)
    torch.testing.assert_close(logits(again, architecture), logits(model, architecture))
    again.load_adapter(tmp_path, "second", low_cpu_mem_usage=low_memory)
    again.set_adapter("second")
    torch.testing.assert_close(logits(again, architecture), logits(model, architecture))


@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], BART_MODEL], ids=lambda a: a.model)
@pytest.mark.parametrize("comes_from", ["training", "a file"])
def test_a_fixed_scale_is_loaded_over_one_that_was_trained_and_back(architecture, comes_from, tmp_path) -> None:
    models = {}
    for learnable in (False, True):
        start = architecture.build()
        normalize_classifier_(start, 5.0, learnable)
        models[learnable] = adapted(start, architecture, find_head(start).modules_to_save)
        train(models[learnable].train(), architecture)
        models[learnable].save_pretrained(tmp_path / str(learnable))
    model = models[True]
    if comes_from == "a file":
        fresh = architecture.build()
        normalize_classifier_(fresh, 5.0)
        model = PeftModel.from_pretrained(fresh, tmp_path / "True")
    learned = logits(model, architecture)
    model.load_adapter(tmp_path / "False", "default")
    torch.testing.assert_close(logits(model, architecture), logits(models[False], architecture))
    model.load_adapter(tmp_path / "True", "default")
    assert torch.equal(logits(model, architecture), learned)
    assert not any("log_temperature_ratio" in key and "modules" in key for key in get_base_model_state_dict(model))


@pytest.mark.parametrize("kind", [NormalizedClassifier, SimplexClassifier])
def test_a_state_dict_decides_whether_a_scale_is_learned(kind) -> None:
    learned, fixed = kind(4, 3, 5.0, True), kind(4, 3, 6.0)
    nn.init.constant_(learned.log_temperature_ratio, 0.3)
    fixed.load_state_dict(learned.state_dict())
    assert fixed.scale.item() == learned.scale.item() and fixed.log_temperature_ratio.requires_grad
    learned.load_state_dict(kind(4, 3, 6.0).state_dict())
    assert learned.scale.item() == pytest.approx(6.0)


FILLED = {
    "t5": lambda: hf.T5ForTokenClassification(hf.T5Config(**T5)),
    "mt5": lambda: hf.MT5ForTokenClassification(hf.MT5Config(**T5)),
    "umt5": lambda: hf.UMT5ForTokenClassification(hf.UMT5Config(**T5)),
    "t5 sequences": lambda: hf.T5ForSequenceClassification(hf.T5Config(**T5, pad_token_id=0)),
    "clip": lambda: hf.CLIPForImageClassification(
        hf.CLIPConfig(vision_config=VISION, text_config={"hidden_size": 8, "num_attention_heads": 2}, num_labels=3)
    ),
    "siglip": lambda: hf.SiglipForImageClassification(
        hf.SiglipConfig(vision_config=VISION, text_config={"hidden_size": 8, "num_attention_heads": 2}, num_labels=3)
    ),
    "bart": lambda: hf.BartForSequenceClassification(hf.BartConfig(**BART, num_labels=3)),
}


@pytest.mark.parametrize("build", FILLED.values(), ids=FILLED.keys())
@pytest.mark.parametrize("learnable", [False, True])
def test_classes_that_fill_the_weight_and_bias_of_their_head_are_loaded(build, learnable, tmp_path) -> None:
    model = build().eval()
    head = normalize_classifier_(model, 5.0, learnable)
    model.save_pretrained(tmp_path)
    again = load_normalized_classifier(str(tmp_path))
    loaded = next(iter(find_head(again).copies.values()))
    assert isinstance(loaded, NormalizedClassifier) and torch.equal(loaded.weight, head.weight)
    assert loaded.scale.item() == head.scale.item()
    fresh = next(iter(find_head(normalized_class(type(model))(model.config)).copies.values()))
    torch.testing.assert_close(fresh.weight.norm(dim=1), torch.ones(3))


def perceiver():
    sizes = {"num_latents": 4, "d_latents": 8, "d_model": 8, "num_blocks": 1, "num_self_attends_per_block": 1,
             "num_self_attention_heads": 2, "num_cross_attention_heads": 2, "image_size": 8, "qk_channels": 8,
             "v_channels": 8, "num_labels": 3}  # fmt: skip
    model = hf.PerceiverForImageClassificationLearned(hf.PerceiverConfig(**sizes)).eval()
    return model, {"inputs": torch.randn(4, 3, 8, 8)}


def test_a_head_that_reads_one_vector_of_a_model_without_padding_is_observed() -> None:
    model, inputs = perceiver()
    observer = HeadObserver(model)
    labels = torch.tensor([0, 1, 2, 1])
    with observer.watching(), torch.no_grad():
        output = model(**inputs, labels=labels)
    assert observer.statistics.counts.tolist() == [1, 2, 1]
    mean = model.get_submodule(find_head(model).layer)(observer.statistics.means[0].float())
    torch.testing.assert_close(mean, output.logits[0], rtol=1e-4, atol=1e-5)


def test_tokens_passed_by_position_tell_where_the_padding_is() -> None:
    architecture = next(a for a in ARCHITECTURES if a.model.startswith("Llama"))
    model = architecture.build()
    tokens = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    found = []
    for args, kwargs in (((tokens,), {}), ((), {"input_ids": tokens})):
        observer = HeadObserver(model)
        with observer.watching(), torch.no_grad():
            model(*args, **kwargs, attention_mask=(tokens > 0).long(), labels=torch.tensor([0, 1]))
        found.append(observer.statistics.means)
    assert torch.equal(*found)
