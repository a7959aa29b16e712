"""`deep-lora merge`: a model that computes what the adapter on its base did, without PEFT; or a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from deep_lora import DeepLoraConfig
from tests.models import disturb_
from tests.training import tiny
from training.cli import main

IDS = torch.tensor([[2, 5, 9, 12, 7, 3]])
QV = ["q_proj", "v_proj"]


def logits(model, **inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def merged(*words: object) -> int:
    return main(["merge", *map(str, words)])


@pytest.fixture(scope="module")
def run(bert, tmp_path_factory):
    """A finished run of a classifier with a new head."""
    folder = tmp_path_factory.mktemp("merge")
    words = [*tiny.QUICK, "--learning_rate", "0.05", "--path_length", "0", "--rank", "4"]
    data = tiny.save_csv(folder / "reviews.csv")
    assert (
        main(["finetune", "--model", str(bert), "--dataset", str(data), "--output_dir", str(folder / "run"), *words])
        == 0
    )
    return folder / "run"


@pytest.fixture
def adapter(llama, tmp_path):
    """Makes an adapter on the tiny Llama: its folder, and its logits."""

    def make(config, base=llama, name="adapter"):
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        torch.manual_seed(1)
        for layer, parameter in model.named_parameters():
            if "lora_B" in layer:
                torch.nn.init.normal_(parameter, std=0.2)
        if isinstance(config, DeepLoraConfig):
            disturb_(model)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name, logits(model)

    return make


def lora(**fields) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": QV, "task_type": "CAUSAL_LM"} | fields)


def edit(path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_run_becomes_a_model_with_its_head_its_classes_and_its_tokenizer(run, bert, tmp_path, capsys) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    peft_model = PeftModel.from_pretrained(base, run / "adapter")
    wanted = logits(peft_model)
    with peft_model.disable_adapter():
        plain = logits(peft_model)
    assert merged(run, "--output_dir", tmp_path / "out") == 0
    assert "13 modules merged into" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(model), wanted, atol=1e-6) and not torch.allclose(plain, wanted, atol=1e-3)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("good film") == AutoTokenizer.from_pretrained(bert)(
        "good film"
    )
    assert not [path.name for path in tmp_path.iterdir() if path.name != "out"]


@pytest.mark.parametrize("config", [lora(), DeepLoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM")])
def test_an_adapter_alone_is_merged_by_its_task(config, adapter, tmp_path) -> None:
    folder, wanted = adapter(config)
    assert merged("--adapter", folder, "--output_dir", tmp_path / "out") == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(model), wanted, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_of_a_tied_head_deep_lora_is_merged_once_and_lora_is_refused(llama, adapter, tmp_path, capsys) -> None:
    tied = tmp_path / "tied"
    config = AutoConfig.from_pretrained(llama)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tied)
    folder, _ = adapter(lora(target_modules=["lm_head"]), tied, "lora")
    assert merged(folder, "--output_dir", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "the merged model computes something else: its outputs are off by" in printed
    assert "as happens when an adapted layer shares its weight with another; use the adapter" in printed
    config = DeepLoraConfig(r=2, target_modules=["lm_head"], ensure_weight_tying=True, task_type="CAUSAL_LM")
    folder, wanted = adapter(config, tied, "deep")
    assert merged(folder, "--output_dir", tmp_path / "out") == 0
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), wanted, atol=1e-5)


def test_a_base_in_half_precision_stays_so_and_what_it_loses_is_told(llama, adapter, tmp_path, capsys) -> None:
    half = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    folder, _ = adapter(lora(), tmp_path / "half")
    assert merged(folder, "--output_dir", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    # by the definition: what rounding W + dW loses, as a share of dW
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors = load_file(folder / "adapter_model.safetensors")
    part = f"base_model.model.{name.removesuffix('.weight')}.lora_"
    update = 4 * tensors[f"{part}B.weight"] @ tensors[f"{part}A.weight"]  # lora_alpha / r
    error = weights[name].float() - half.state_dict()[name].float() - update
    assert f"bfloat16 rounds the merged weights by {error.norm() / update.norm():.1%}"[:-3] in printed
    assert merged(folder, "--output_dir", tmp_path / "wide", "--dtype", "float32") == 0
    assert "rounds" not in capsys.readouterr().out
    assert load_file(tmp_path / "wide" / "model.safetensors")[name].dtype == torch.float32


def test_a_run_on_quantized_weights_is_told_to_differ(run, tmp_path, capsys) -> None:
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    edit(tmp_path / "run" / "results.json", settings=results["settings"] | {"load_in_4bit": True})
    assert merged(tmp_path / "run", "--output_dir", tmp_path / "out") == 0
    assert "the adapter was trained on quantized weights; on these, which are not" in capsys.readouterr().out


def test_what_cannot_be_merged_is_refused_with_the_reason(run, llama, bert, adapter, tmp_path, capsys) -> None:
    def refused(*words: object) -> str:
        assert merged(*words, "--output_dir", tmp_path / "out") == 2
        return capsys.readouterr().err

    def changed(**fields):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(run, tmp_path / "run")
        edit(tmp_path / "run" / "results.json", **fields)
        return tmp_path / "run"

    assert main(["merge"]) == 2 and "merge needs the folder of a run or of an adapter" in capsys.readouterr().err
    settings = json.loads((run / "results.json").read_text())["settings"]
    assert "is a run of contrastive, whose temperature" in refused(changed(command="contrastive"))
    assert "was trained with --normalized_head, and no class" in refused(
        changed(settings=settings | {"normalized_head": True})
    )
    assert "is not complete; rerun its command" in refused(changed(status="stopped"))
    assert "is not the folder of an adapter or of a run" in refused(tmp_path)
    assert "--dtype got 'int8'; choose float32, bfloat16, float16" in refused(run, "--dtype", "int8")
    folder, _ = adapter(lora())
    assert "holds" in refused(folder, "--model", tmp_path / "out" / "base") and not (tmp_path / "out").exists()
    prompts = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    assert "holds a PROMPT_TUNING, which adds inputs and changes no weight" in refused(adapter(prompts, name="p")[0])
    shutil.copytree(llama, tmp_path / "quantized")
    edit(tmp_path / "quantized" / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "are quantized, and merging would round" in refused(folder, "--model", tmp_path / "quantized")
    assert merged(folder, "--output_dir", tmp_path / "out", "--model", "no/where") == 1
    assert "the configuration of no/where cannot be loaded" in capsys.readouterr().err
    wide = tiny.save_llama(tmp_path / "wide", width=32)
    assert "the adapter" in refused(folder, "--model", wide)
    weights = folder / "adapter_model.safetensors"
    save_file({name: value / 0 for name, value in load_file(weights).items()}, weights)
    assert " cannot be merged: NaNs detected" in refused(folder)
    config = folder / "adapter_config.json"
    edit(config, task_type=None)
    assert "names neither a task nor a class of transformers" in refused(folder)
    edit(config, task_type="CAUSAL_LM", base_model_name_or_path=None)
    assert "does not name its base model; pass --model" in refused(folder)
    edit(config, peft_type="NEW")
    assert "holds a NEW, which PEFT does not know" in refused(folder)
    assert not (tmp_path / "out").exists()


def test_a_head_that_nobody_has_is_not_left_random(run, bert, tmp_path, capsys) -> None:
    shutil.copytree(run / "adapter" / "deep_lora", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: value for name, value in tensors.items() if "classifier" not in name}, path)
    assert merged(tmp_path / "adapter", "--output_dir", tmp_path / "out") == 2
    assert "has no weights for classifier, and the adapter has none either" in capsys.readouterr().err
    extra = "base_model.model.bert.encoder.layer.7.attention.self.query."
    known = {name: value for name, value in tensors.items() if "layer.1.attention.self.query" in name}
    more = {extra + name.rpartition(".")[2]: value.clone() for name, value in known.items()}
    save_file(tensors | more, path)
    assert merged(tmp_path / "adapter", "--output_dir", tmp_path / "out") == 2
    assert "has no module for the adapter's" in (printed := capsys.readouterr().err) and "; pass the right" in printed


def test_a_folder_in_use_is_not_replaced(run, tmp_path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert merged(run, "--output_dir", tmp_path) == 2
    assert "is not empty; pass another --output_dir, or --overwrite" in capsys.readouterr().err
    for output in (run, run.parent):
        assert merged(run, "--output_dir", output, "--overwrite") == 2
        assert "which this command reads; pass another folder" in capsys.readouterr().err
    assert (run / "results.json").is_file()
    assert merged(run, "--output_dir", tmp_path, "--overwrite") == 0 and not (tmp_path / "mine.txt").exists()
