"""Every task of `deep-lora finetune` trains, saves, exports and comes back, offline."""

from __future__ import annotations

import json
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import deep_lora
from dmf.subspaces import OrthogonalMap
from tests.training import tiny
from training.settings.adapter import AdapterArguments

ADAPTERS = ("adapter", "adapter/deep_lora")
FILES = ["adapter_config.json", "adapter_model.safetensors"]


def logits(base, adapter, text="the film was great"):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = PeftModel.from_pretrained(model, adapter).eval()
    holder = adapter if (adapter / "tokenizer.json").is_file() else adapter.parent
    inputs = AutoTokenizer.from_pretrained(holder)(text, return_tensors="pt")
    return model(**{name: inputs[name] for name in ("input_ids", "attention_mask")}).logits


def test_a_csv_becomes_an_adapter_and_an_export_that_predict_the_same(bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, "--eval_strategy", "steps", "--eval_steps", "1", picture=True)
    assert status == 0, printed
    run = tmp_path / "run"
    trained, plain = logits(bert, run / "adapter" / "deep_lora"), logits(bert, run / "adapter")
    assert torch.allclose(trained, plain, atol=1e-6)
    kinds = [json.loads((run / name / "adapter_config.json").read_text())["peft_type"] for name in ADAPTERS]
    assert kinds == ["LORA", "DEEP_LORA"] and sorted(path.name for path in (run / ADAPTERS[1]).iterdir()) == FILES
    card = (run / "adapter" / "README.md").read_text()
    assert "is_trainable=True" in card and "num_labels=2" in card and "More Information" not in card
    found = tiny.results(run)
    assert found["status"] == "complete" and found["label_names"] == ["neg", "pos"]
    assert found["samples"] == {"train": 36, "validation": 4}
    assert {"loss", "accuracy", "f1_macro"} <= set(found["metrics"]["validation"])
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / ".partial").exists() and not (run / "adapter" / "training_args.bin").exists()


def test_results_name_no_folder_of_this_machine(bert, reviews, finetune, tmp_path) -> None:
    finetune(bert, reviews)
    assert str(tmp_path) not in (tmp_path / "run" / "results.json").read_text()
    assert str(bert.parent) not in (tmp_path / "run" / "results.json").read_text()


def test_dry_run_describes_and_writes_nothing(bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, "--dry-run")
    assert status == 0 and not (tmp_path / "run").exists()
    for expected in ("classification, 2 classes", "trained parameters", "36 train, 4 validation", "3 of 4 samples"):
        assert expected in printed


def test_full_memory_ends_with_a_way_out(bert, reviews, finetune, monkeypatch) -> None:
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("transformers.Trainer.training_step", full)
    status, printed = finetune(bert, reviews)
    told = (
        "the memory is full (CUDA out of memory. Tried to allocate 2.00 GiB); pass a smaller --per_device_train_batch"
    )
    assert status == 1 and told in printed


def test_a_config_file_is_read_and_the_command_line_wins(bert, reviews, finetune, tmp_path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("rank: 6\nadapter: lora\ntarget_modules: [query, value]\nmax_steps: 2\n")
    status, printed = finetune(bert, reviews, "--config", config, "--rank", "4")
    assert status == 0, printed
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], sorted(settings["target_modules"])) == ("LORA", 4, ["query", "value"])


@pytest.mark.parametrize("adapter", ["lora", "file"])
def test_other_adapters_train_too(adapter, bert, reviews, finetune, tmp_path) -> None:
    path = tmp_path / "ia3.json"
    path.write_text(json.dumps({"peft_type": "IA3", "target_modules": ["query"], "feedforward_modules": []}))
    words = ["--adapter", "lora"] if adapter == "lora" else ["--adapter_config", path]
    status, printed = finetune(bert, reviews, *words)
    assert status == 0, printed
    assert logits(bert, tmp_path / "run" / "adapter").isfinite().all()
    assert not (tmp_path / "run" / "adapter" / "deep_lora").exists()


def test_a_variant_without_subspaces_trains_from_its_file(bert, reviews, finetune, tmp_path) -> None:
    path = tmp_path / "narrow.yaml"
    path.write_text("peft_type: DEEP_LORA\nvariant: narrow\ntarget_modules: [query]\n")
    status, printed = finetune(bert, reviews, "--adapter_config", path)
    assert status == 0, printed
    assert logits(bert, tmp_path / "run" / "adapter").isfinite().all()


def test_layers_that_the_checkpoint_lacks_are_trained_and_saved(bert, reviews, finetune, tmp_path) -> None:
    """A frozen random layer would be another one when the adapter is loaded."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "without_pooler"
    folder.mkdir()
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    status, printed = finetune(folder, reviews)
    assert status == 0 and "bert.pooler.dense" in printed
    first = logits(folder, tmp_path / "run" / "adapter")
    torch.manual_seed(7)
    assert torch.equal(first, logits(folder, tmp_path / "run" / "adapter"))


def test_a_normalized_head_is_saved_with_the_adapter(bert, reviews, finetune, tmp_path) -> None:
    from collapse import NormalizedClassifier, normalize_classifier_

    status, printed = finetune(bert, reviews, "--normalized_head", "--head_scale", "6")
    assert status == 0, printed
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    normalize_classifier_(model, 6.0)
    model = PeftModel.from_pretrained(model, tmp_path / "run" / "adapter")
    heads = [module for module in model.modules() if isinstance(module, NormalizedClassifier)]
    saved = peft.load_peft_weights(str(tmp_path / "run" / "adapter"))
    assert any(torch.equal(head.weight, saved["base_model.model.classifier.weight"]) for head in heads)


def test_one_number_for_all_rows_is_refused(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "scores.csv", label=[3.0] * 40)
    status, printed = finetune(bert, data, "--task", "regression", "--dry_run")
    assert (
        status == 2 and "column 'label' holds 3 in all 36 training rows, so there is nothing to predict; ch" in printed
    )


def test_numbers_are_predicted_with_task_regression(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "scores.csv", label=[i % 7 / 8 for i in range(40)])
    held = tiny.save_csv(tmp_path / "held.csv", seed=1, label=[1500000000 + i % 7 for i in range(40)])
    status, printed = finetune(bert, data, "--task", "regression", "--validation_data", held)
    assert status == 0, printed
    assert "numbers  train: 0 to 0.75, validation: 1500000000 to 1500000006\n" in printed
    assert {"pearsonr", "spearmanr", "mse"} <= set(tiny.results(tmp_path / "run")["metrics"]["validation"])


def test_a_glue_task_by_name_knows_columns_and_metrics(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "mrpc.csv", header="sentence1,label", sentence2=["a good film"] * 40)
    status, printed = finetune(bert, data, "--glue", "mrpc", "--validation_data", data)
    assert status == 0, printed
    assert {"accuracy", "f1"} <= set(tiny.results(tmp_path / "run")["metrics"]["validation"])


def test_tags_for_words_are_learned(bert, finetune, tmp_path) -> None:
    data = tmp_path / "tags.jsonl"
    rows = [{"text": "the film was great", "tags": "O N O A"}, {"text": ["a", "dull", "plot"], "tags": ["O", "A", "N"]}]
    data.write_text("\n".join(json.dumps({k: v if isinstance(v, str) else " ".join(v) for k, v in rows[i % 2].items()})
                              for i in range(12)))  # fmt: skip
    status, printed = finetune(bert, data, "--task", "token_classification")
    assert status == 0, printed
    assert tiny.results(tmp_path / "run")["label_names"] == ["A", "N", "O"]


@pytest.mark.parametrize("words", [[], ["--target_column", "target"]])
def test_a_causal_language_model_learns_texts_or_answers(words, llama, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "texts.csv", target=["great film"] * 40)
    status, printed = finetune(llama, data, "--task", "causal_lm", *words)
    assert status == 0, printed
    assert tiny.results(tmp_path / "run")["metrics"]["validation"]["perplexity"] > 1


def test_text_is_turned_into_text(t5, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "pairs.csv", target=["great film"] * 40)
    status, printed = finetune(t5, data, "--task", "seq2seq", "--target_column", "target")
    assert status == 0, printed
    assert tiny.results(tmp_path / "run")["metrics"]["validation"]["perplexity"] > 1


@pytest.mark.parametrize("bits", ["8", "4"])
def test_a_quantized_base_trains_on_the_cpu(bits, llama, finetune, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    data = tiny.save_csv(tmp_path / "texts.csv")
    status, printed = finetune(llama, data, "--task", "causal_lm", f"--load_in_{bits}bit")
    assert status == 0, printed
    assert (tmp_path / "run" / "adapter" / "deep_lora").is_dir()


def test_a_4_bit_base_on_a_cpu_has_the_same_gradients_after_an_evaluation(llama) -> None:
    """bitsandbytes repacks the weights of layers in evaluation mode for a kernel without a backward pass."""
    pytest.importorskip("bitsandbytes")
    from training.models.loading import load_base
    from training.settings.common import ModelArguments

    task = SimpleNamespace(name="causal_lm", auto_class="AutoModelForCausalLM", model_settings={})
    base = load_base(ModelArguments(model=str(llama), load_in_4bit=True), task).model
    config = deep_lora.DeepLoraConfig(r=2, target_modules="all-linear", init_scale=1.0)
    model = peft.get_peft_model(base, config)
    words = torch.arange(5, 13)[None]
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model.train()(input_ids=words, labels=words).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        with torch.no_grad():
            model.eval()(input_ids=words)
    assert len(gradients[0]) == sum(p.requires_grad for p in model.parameters()) > 10
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    cores = [gradient for name, gradient in gradients[0].items() if "core" in name]
    assert cores and all(gradient.abs().max() > 0 for gradient in cores)


def test_samples_are_drawn_by_seed(bert, reviews, finetune, tmp_path) -> None:
    finetune(bert, reviews, "--num_train_samples", "10", "--num_validation_samples", "2")
    assert tiny.results(tmp_path / "run")["samples"] == {"train": 10, "validation": 2}


def test_the_start_has_right_vectors_and_their_images(bert, reviews, finetune, tmp_path) -> None:
    words = ["--rank", 3, "--freeze_subspaces", "--target_modules", r".*layer\.0\.inter.*dense"]
    status, printed = finetune(bert, reviews, *words)
    assert status == 0, printed
    saved = peft.load_peft_weights(str(tmp_path / "run" / "adapter" / "deep_lora"), device="cpu")
    (U,), (V,) = ([w for name, w in saved.items() if f"deep_lora_{factor}" in name] for factor in "UV")
    Q = OrthogonalMap(len(U), len(V), 0)  # --seed 0, which --freeze_subspaces leaves as it was
    assert len(U) > len(V) and U.shape[1] == V.shape[1] == 3
    scale = V.norm(dim=0).mean()  # they are stored smaller
    assert torch.allclose(V.mT @ V, scale**2 * torch.eye(3), atol=1e-5) and (Q(V) - U).abs().max() <= 1e-5


def test_the_command_trains_by_the_step_rule_unless_it_is_told_not_to() -> None:
    from training.runner import initialization

    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Linear(4, 4)), deep_lora.DeepLoraConfig(target_modules=["0"])
    )
    run = SimpleNamespace(seed=0)
    (ruled,) = initialization(SimpleNamespace(adapter=AdapterArguments(), run=run), model)
    (plain,) = initialization(SimpleNamespace(adapter=AdapterArguments(path_length=0), run=run), model)
    usual = deep_lora.DeepLoraCallback()
    assert (ruled.path, ruled.num_batches) == (usual.path, usual.num_batches)
    assert type(plain) is deep_lora.SubspaceInitializationCallback and plain.sides == "right"


def test_fsdp_on_a_cpu_is_said_to_be_ddp(bert, reviews, finetune, monkeypatch) -> None:
    from training import runner
    from training.settings.common import RunArguments

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.warns(UserWarning, match="accelerate has no FSDP on the CPU"):
        runner._warn_of_ddp(RunArguments(output_dir="x", use_cpu=True))


@pytest.mark.parametrize("task", ["classification", "causal_lm"])
def test_accumulated_batches_are_one_large_batch(task, finetune, tmp_path) -> None:
    """Also for models that take `num_items_in_batch` and ignore it, whose loss Trainer would multiply."""
    folder = (tiny.save_bert if task == "classification" else tiny.save_llama)(tmp_path / "model")
    data = tiny.save_csv(tmp_path / "data.csv")
    for path in folder.glob("config.json"):
        path.write_text(path.read_text().replace('_dropout_prob": 0.1', '_dropout_prob": 0.0'))
    losses = []
    for batch, accumulated in ((8, 1), (2, 4)):
        words = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulated]
        words += ["--task", task, "--init_batches", 0]
        status, printed = finetune(folder, data, *words, output=tmp_path / str(batch))
        assert status == 0, printed
        losses.append([entry["loss"] for entry in tiny.results(tmp_path / str(batch))["log"] if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][0] < 5, "a mean, not a sum"
