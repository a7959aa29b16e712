"""Trainer's options for precision, memory and speed reach a run of `deep-lora finetune`, as far as a CPU has them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tests.training import tiny

WORDS_AND_TAGS = {"tags": [" ".join("AB"[(row + place) % 2] for place in range(7)) for row in range(40)]}
TASKS = {
    "classification": {"text,label": {}},
    "regression": {"text,label": {"label": [row % 5 / 5 for row in range(40)]}},
    "token_classification": {"text,tags": WORDS_AND_TAGS},
}


def losses(run) -> list[float]:
    return [entry["loss"] for entry in tiny.results(run)["log"] if "loss" in entry]


@pytest.fixture
def trained(bert, reviews, finetune, tmp_path):
    """Losses of three steps with the given options; dropout is on, and drawn alike."""

    def run(*words: str) -> list[float]:
        status, printed = finetune(bert, reviews, "--overwrite", *words)
        assert status == 0, printed
        assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
        return losses(tmp_path / "run")

    return run


def test_bf16_changes_the_losses_by_its_rounding_only(trained) -> None:
    plain, rounded = trained(), trained("--bf16", "true")
    assert rounded != plain and rounded == pytest.approx(plain, abs=1e-2)


@pytest.mark.parametrize("words", [("--gradient_checkpointing", "true"), ("--optim", "adamw_8bit")])
def test_less_memory_is_the_same_run(words, trained) -> None:
    """bitsandbytes keeps the state of tensors below 4096 numbers in 32 bits, as all are here."""
    if "adamw_8bit" in words:
        pytest.importorskip("bitsandbytes", minversion="0.50")  # older ones step on GPUs alone
    assert trained(*words) == pytest.approx(trained(), abs=1e-5)


@pytest.mark.slow
def test_a_compiled_model_trains(trained) -> None:
    compiled = trained("--torch_compile", "true")
    assert len(compiled) == 3 and compiled[-1] < compiled[0]


@pytest.fixture
def compared(bert, finetune, tmp_path):
    """Losses of three steps in float32, and with the given options for a base in half precision."""

    def run(task: str, *words: str, base=bert) -> tuple[list[float], list[float]]:
        ((header, columns),) = TASKS[task].items()
        data = tiny.save_csv(tmp_path / "data.csv", header=header, **columns)
        common = ["--task", task, "--overwrite"] + (["--adapter", "lora"] if "lora" in words else [])
        assert finetune(bert, data, *common)[0] == 0
        plain = losses(tmp_path / "run")
        status, printed = finetune(base, data, *common, *words)
        assert status == 0, printed
        return plain, losses(tmp_path / "run")

    return run


def learned(run) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("mixed", [[], ["--bf16", "true"]], ids=["bf16 base", "bf16 base and autocast"])
@pytest.mark.parametrize("adapter", ["deep_lora", "lora"])
@pytest.mark.parametrize("task", list(TASKS))
def test_a_base_in_bfloat16_trains_as_one_in_float32_up_to_rounding(task, adapter, mixed, compared, tmp_path) -> None:
    plain, half = compared(task, "--dtype", "bfloat16", "--adapter", adapter, *mixed)
    assert half != plain and half == pytest.approx(plain, abs=4e-2)
    found = {name: tensor.dtype for name, tensor in learned(tmp_path / "run").items() if "settings" not in name}
    assert set(found.values()) == {torch.float32}


def test_a_base_in_float16_trains_too(compared) -> None:
    plain, half = compared("classification", "--dtype", "float16")
    assert half == pytest.approx(plain, abs=2e-2)


def test_a_base_that_is_stored_in_bfloat16_trains_as_it_is(bert, compared, tmp_path) -> None:
    AutoModel.from_pretrained(bert, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "half")
    plain, half = compared("classification", "--dtype", "auto", base=tmp_path / "half")
    assert half != plain and half == pytest.approx(plain, abs=2e-2)


def test_layers_inside_of_a_base_in_bfloat16_are_trained_whole(compared, tmp_path) -> None:
    inner = ["bert.embeddings.word_embeddings", "bert.encoder.layer.0.output.LayerNorm", "bert.pooler"]
    plain, half = compared("classification", "--dtype", "bfloat16", "--modules_to_save", *inner)
    assert half == pytest.approx(plain, abs=2e-2)
    whole = {name: tensor.dtype for name, tensor in learned(tmp_path / "run").items() if "lora_" not in name}
    assert len(whole) == 7 and set(whole.values()) == {torch.float32}


def test_a_normalized_head_of_a_base_in_bfloat16_trains(compared) -> None:
    _, half = compared("classification", "--dtype", "bfloat16", "--normalized_head", "true")
    assert len(half) == 3 and half[-1] == half[-1]
