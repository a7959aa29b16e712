"""`convert_folder` and `inspect_adapter`: what they write and find is right."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import CONFIG_NAME as CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertModel

from deep_lora import (
    AdapterFileError,
    AdapterReport,
    DeepLoraConfig,
    convert_folder,
    inspect_adapter,
    kept_ranks,
    save_as_lora,
)
from tests.models import bert_classifier, disturb_, gpt2, ids


def classifier(folder):
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of an encoder without a head, as pretrained ones are."""
    folder = tmp_path_factory.mktemp("bert")
    BertModel(bert_classifier().config).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(bert, tmp_path):
    """A trained-looking adapter on linear layers and an embedding, and the model that holds it."""
    settings = {"rank_pattern": {"query": 2}, "init_scale": 0.5}
    config = DeepLoraConfig(r=4, target_modules=["query", "dense", "word_embeddings"], task_type="SEQ_CLS", **settings)
    model = get_peft_model(classifier(bert), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    return model


def update_of(model, name):
    return model.base_model.model.get_submodule(name).get_delta_weight("default").detach().double()


def with_config(folder, **fields) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_convert_writes_what_the_library_exports_from_the_model(saved, tmp_path) -> None:
    wanted = save_as_lora(tmp_path / "expected", saved)
    assert convert_folder(tmp_path / "adapter", tmp_path / "lora") == wanted and max(wanted.values()) == 4
    expected, found = (load_file(tmp_path / name / WEIGHTS) for name in ("expected", "lora"))
    assert expected.keys() == found.keys() and len(found) > 10
    assert all(torch.equal(expected[name], found[name]) for name in found)


def test_a_tolerance_keeps_the_ranks_that_it_keeps_of_the_model(saved, tmp_path) -> None:
    ranks = convert_folder(tmp_path / "adapter", tmp_path / "lora", tolerance=0.5)
    assert ranks == kept_ranks(saved, tolerance=0.5) != kept_ranks(saved)
    assert json.loads((tmp_path / "lora" / CONFIG).read_text())["r"] == max(ranks.values())


def test_a_converted_adapter_predicts_the_same_and_needs_no_plugin(saved, bert, tmp_path) -> None:
    convert_folder(tmp_path / "adapter", tmp_path / "lora")
    lora = PeftModel.from_pretrained(classifier(bert), tmp_path / "lora").eval()
    assert torch.allclose(saved(ids()).logits, lora(ids()).logits, atol=1e-5)
    assert json.loads((tmp_path / "lora" / CONFIG).read_text())["peft_type"] == "LORA"


def test_without_an_output_folder_nothing_is_written(saved, tmp_path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    assert convert_folder(tmp_path / "adapter", None) == kept_ranks(saved)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_folder_that_is_not_empty_is_overwritten_only_if_told_so(saved, tmp_path) -> None:
    output = tmp_path / "full"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full is not empty; pass another `out`, or `overwrite=True`"):
        convert_folder(tmp_path / "adapter", output)
    assert os.listdir(output) == ["mine.txt"]
    convert_folder(tmp_path / "adapter", output, overwrite=True)
    assert sorted(os.listdir(output)) == [CONFIG, WEIGHTS, "mine.txt"]


def test_inspect_shows_the_spectra_of_the_dense_updates(saved, tmp_path) -> None:
    reports = {one.module: one for one in inspect_adapter(tmp_path / "adapter").modules}
    assert len(reports) == 10, "in 2 layers query and 3 x dense, the pooler, the embedding"
    for name, one in reports.items():
        values = torch.linalg.svdvals(update_of(saved, name))[: one.rank]
        assert torch.allclose(torch.tensor(one.singular_values, dtype=torch.float64), values, rtol=1e-4, atol=1e-7)
        share = values / values.sum()
        assert one.effective_rank == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)


def test_the_report_says_what_is_in_the_file(saved, tmp_path) -> None:
    report = inspect_adapter(str(tmp_path / "adapter"))
    file = tmp_path / "adapter" / WEIGHTS
    assert isinstance(report, AdapterReport) and report.peft_type == "DEEP_LORA"
    assert report.bytes == file.stat().st_size
    held = [tensor for tensor in load_file(file).values() if tensor.is_floating_point()]  # the rest are settings
    assert report.parameters == sum(tensor.numel() for tensor in held)
    query = next(one for one in report.modules if one.module.endswith("1.attention.self.query"))
    assert (query.out_features, query.in_features, query.rank) == (32, 32, 2)
    assert query.parameters == 2 * 32 * 2 + 3 * 2 * 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.bytes = 0  # type: ignore[misc]


def test_inspect_reads_lora_with_its_scale(saved, tmp_path) -> None:
    save_as_lora(tmp_path / "lora", saved)
    deep = {one.module: one for one in inspect_adapter(tmp_path / "adapter").modules}
    plain = {one.module: one for one in inspect_adapter(tmp_path / "lora").modules}
    assert deep.keys() == plain.keys()
    for name, one in plain.items():
        kept = deep[name].singular_values
        assert one.singular_values[: len(kept)] == pytest.approx(kept, rel=1e-4, abs=1e-7)


def test_kinds_of_layers_are_not_guessed(saved, tmp_path) -> None:
    with_config(tmp_path / "adapter", base_model_name_or_path="gone/away")
    with pytest.raises(AdapterFileError, match="pass `base_model`, or `assume_linear=True` if all of them are linear"):
        convert_folder(tmp_path / "adapter", tmp_path / "lora")
    with pytest.raises(AdapterFileError, match="the base model no/model cannot be built from its configuration"):
        convert_folder(tmp_path / "adapter", tmp_path / "lora", base_model="no/model")
    with pytest.warns(UserWarning, match="every layer is taken as linear; the values of embeddings are of another"):
        found = inspect_adapter(tmp_path / "adapter")
    for one in found.modules:  # the file says what the scales are
        values = torch.linalg.svdvals(update_of(saved, one.module))[: one.rank].tolist()
        assert one.singular_values == pytest.approx(values, rel=1e-4, abs=1e-7)


def test_a_base_without_the_adapted_modules_is_refused(saved, tmp_path) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    with_config(tmp_path / "adapter", task_type="CAUSAL_LM")
    with pytest.raises(AdapterFileError, match="has no module .*pass the right one with `base_model`, or `assume_lin"):
        inspect_adapter(tmp_path / "adapter", base_model=str(tmp_path / "base"))


@pytest.mark.parametrize(("bias", "exported"), [("none", "none"), ("all", "all"), ("deep_lora_only", "lora_only")])
def test_convert_describes_the_adapter_as_the_library_does(bias, exported, bert, tmp_path) -> None:
    settings = {"deep_lora_dropout": 0.1, "modules_to_save": ["pooler"], "layers_to_transform": [1]}
    config = DeepLoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", bias=bias, **settings)
    model = get_peft_model(classifier(bert), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    save_as_lora(tmp_path / "expected", model)
    convert_folder(tmp_path / "adapter", tmp_path / "lora")
    expected, found = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("expected", "lora"))
    assert found == expected and found["bias"] == exported
    saved, converted = (load_file(tmp_path / name / WEIGHTS) for name in ("expected", "lora"))
    assert saved.keys() == converted.keys() and any("query.base_layer.bias" in name for name in saved) == (
        bias != "none"
    )
    lora = PeftModel.from_pretrained(classifier(bert), tmp_path / "lora").eval()
    assert torch.allclose(model(ids()).logits, lora(ids()).logits, atol=1e-5)


@pytest.mark.parametrize("bias", ["lora_only", None, ["all"], {}, "x" * 5000], ids=lambda bias: str(bias)[:9])
def test_a_bias_that_there_is_not_is_refused(bias, saved, tmp_path) -> None:
    with_config(tmp_path / "adapter", bias=bias)
    with pytest.raises(AdapterFileError, match="the adapter's config has the bias") as caught:
        convert_folder(tmp_path / "adapter", tmp_path / "lora")
    assert "it must be one of ['none', 'all', 'deep_lora_only']" in str(caught.value) and len(str(caught.value)) < 300
    assert not (tmp_path / "lora").exists()


@pytest.fixture(params=[["wte", "c_attn"], r".*(wte|c_attn)"], ids=["names", "pattern"])
def tied(tmp_path, request):
    """An adapter on an embedding and the head that is tied to it, and the model that holds it."""
    gpt2().save_pretrained(tmp_path / "base")
    config = DeepLoraConfig(r=4, target_modules=request.param, ensure_weight_tying=True)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval(), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    return model


def test_a_tied_head_is_converted_and_inspected_as_the_embedding_that_it_is_tied_to(tied, tmp_path) -> None:
    convert_folder(tmp_path / "adapter", tmp_path / "lora", base_model=str(tmp_path / "base"))
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    assert torch.allclose(tied(ids()).logits, lora(ids()).logits, atol=1e-5)
    found = {one.module: one.singular_values for one in inspect_adapter(tmp_path / "adapter").modules}
    assert found["lm_head"] == pytest.approx(found["transformer.wte"])
    with pytest.raises(AdapterFileError, match="ties a head to an embedding.*; pass `base_model`"):
        convert_folder(tmp_path / "adapter", tmp_path / "lora", assume_linear=True, overwrite=True)
    with_config(tmp_path / "adapter", target_modules=[["wte"]])
    with pytest.raises(AdapterFileError, match="the adapter cannot be converted"):
        convert_folder(tmp_path / "adapter", None)
