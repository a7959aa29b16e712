"""`inspect` and `convert`: what they show and write is right."""

from __future__ import annotations

import json
import os

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from deep_lora import DeepLoraConfig, save_as_lora
from tests.models import disturb_, gpt2, ids
from deep_lora.export.folders import CONFIG, WEIGHTS, read_adapter
from training.cli import main
from training.commands.inspect import inspect_adapter


def base(folder):
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


@pytest.fixture(params=[None, 0.1], ids=["free", "bounded"])
def saved(bert, tmp_path, request):
    """A trained-looking adapter on linear layers and an embedding, and the model that holds it."""
    settings = {"rank_pattern": {"query": 2}, "init_scale": 0.5, "max_update_norm": request.param}
    config = DeepLoraConfig(r=4, target_modules=["query", "dense", "word_embeddings"], task_type="SEQ_CLS", **settings)
    model = get_peft_model(base(bert), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    return model


def update_of(model, name):
    return model.base_model.model.get_submodule(name).get_delta_weight("default").detach().double()


def test_convert_writes_what_the_library_exports_from_the_model(saved, tmp_path, capsys) -> None:
    save_as_lora(tmp_path / "expected", saved)
    assert main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]) == 0
    assert "largest rank 4" in capsys.readouterr().out
    expected, found = (load_file(tmp_path / name / WEIGHTS) for name in ("expected", "lora"))
    assert expected.keys() == found.keys() and len(found) > 10
    assert all(torch.equal(expected[name], found[name]) for name in found)


def test_a_converted_adapter_predicts_the_same_and_needs_no_plugin(saved, bert, tmp_path) -> None:
    main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")])
    lora = PeftModel.from_pretrained(base(bert), tmp_path / "lora").eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    assert torch.allclose(saved(ids).logits, lora(ids).logits, atol=1e-5)
    assert json.loads((tmp_path / "lora" / CONFIG).read_text())["peft_type"] == "LORA"


def test_inspect_shows_the_spectra_of_the_dense_updates(saved, tmp_path) -> None:
    reports = {one.module: one for one in inspect_adapter(read_adapter(tmp_path / "adapter"))}
    assert len(reports) == 10, "in 2 layers query and 3 x dense, the pooler, the embedding"
    for name, one in reports.items():
        values = torch.linalg.svdvals(update_of(saved, name))[: one.rank]
        assert torch.allclose(torch.tensor(one.singular_values, dtype=torch.float64), values, rtol=1e-4, atol=1e-7)
        share = values / values.sum()
        assert one.effective_rank == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)


def test_inspect_reads_lora_with_its_scale(saved, tmp_path) -> None:
    save_as_lora(tmp_path / "lora", saved)
    deep = {one.module: one for one in inspect_adapter(read_adapter(tmp_path / "adapter"))}
    plain = {one.module: one for one in inspect_adapter(read_adapter(tmp_path / "lora"))}
    assert deep.keys() == plain.keys()
    for name, one in plain.items():
        kept = deep[name].singular_values
        assert one.singular_values[: len(kept)] == pytest.approx(kept, rel=1e-4, abs=1e-7)
    assert main(["inspect", "--adapter", str(tmp_path / "lora")]) == 0


def test_inspect_writes_a_table_and_a_picture(saved, tmp_path, capsys) -> None:
    assert main(["inspect", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "out")]) == 0
    assert "10 modules, mean effective rank" in capsys.readouterr().out
    assert (tmp_path / "out" / "spectra.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "out" / "inspection.json").read_text())["modules"]) == 10


def test_convert_refuses_to_overwrite_and_dry_run_writes_nothing(saved, tmp_path, capsys) -> None:
    words = ["convert", "--adapter", str(tmp_path / "adapter")]
    assert main([*words, "--dry_run"]) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main([*words, "--output_dir", str(tmp_path / "full")]) == 2
    assert "is not empty; pass another --output_dir, or --overwrite" in capsys.readouterr().err
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    assert main([*words, "--output_dir", str(tmp_path / "full"), "--overwrite"]) == 0
    assert main(words) == 2 and "convert needs --adapter and --output_dir" in capsys.readouterr().err
    assert main(["inspect"]) == 2 and "inspect needs --adapter" in capsys.readouterr().err


def test_kinds_of_layers_are_not_guessed(saved, tmp_path, capsys) -> None:
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "gone/away"}))
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]
    assert main(words) == 2
    assert "pass --model, or --assume_linear if all of them are linear" in capsys.readouterr().err
    assert main([*words, "--model", "no/model"]) == 2
    assert "the base model no/model cannot be built" in capsys.readouterr().err


@pytest.mark.parametrize(("bias", "exported"), [("none", "none"), ("all", "all"), ("deep_lora_only", "lora_only")])
def test_convert_describes_the_adapter_as_the_library_does(bias, exported, bert, tmp_path) -> None:
    settings = {"deep_lora_dropout": 0.1, "modules_to_save": ["pooler"], "layers_to_transform": [1]}
    config = DeepLoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS", bias=bias, **settings)
    model = get_peft_model(base(bert), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    save_as_lora(tmp_path / "expected", model)
    assert main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]) == 0
    expected, found = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("expected", "lora"))
    assert found == expected and found["bias"] == exported
    saved, converted = (load_file(tmp_path / name / WEIGHTS) for name in ("expected", "lora"))
    assert saved.keys() == converted.keys() and any("query.base_layer.bias" in name for name in saved) == (
        bias != "none"
    )
    ids = torch.tensor([[2, 7, 9, 3]])
    lora = PeftModel.from_pretrained(base(bert), tmp_path / "lora").eval()
    assert torch.allclose(model(ids).logits, lora(ids).logits, atol=1e-5)


@pytest.mark.parametrize("bias", ["lora_only", None, ["all"], {}, "x" * 5000], ids=lambda bias: str(bias)[:9])
def test_a_bias_that_there_is_not_is_refused(bias, saved, tmp_path, capsys) -> None:
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": bias}))
    assert main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]) == 2
    printed = capsys.readouterr().err
    assert "the adapter's config has the bias" in printed and len(printed) < 300
    assert "it must be one of ['none', 'all', 'deep_lora_only']" in printed and not (tmp_path / "lora").exists()


@pytest.mark.parametrize("targets", [["wte", "c_attn"], r".*(wte|c_attn)"], ids=["names", "pattern"])
def test_a_tied_head_is_converted_and_inspected_as_the_embedding_that_it_borrows_from(
    targets, tmp_path, capsys
) -> None:
    torch.manual_seed(0)
    gpt2().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model = get_peft_model(model, DeepLoraConfig(r=4, target_modules=targets, ensure_weight_tying=True)).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]
    assert main([*words, "--model", str(tmp_path / "base")]) == 0
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    assert torch.allclose(model(ids()).logits, lora(ids()).logits, atol=1e-5)
    found = {one.module: one.singular_values for one in inspect_adapter(read_adapter(tmp_path / "adapter"))}
    assert found["lm_head"] == pytest.approx(found["transformer.wte"])
    assert main([*words, "--assume_linear", "--overwrite"]) == 2
    assert "ties a head to an embedding" in capsys.readouterr().err
