"""Trainer's options for precision, memory and speed reach a run of `deep-lora finetune`, as far as a CPU has them."""

from __future__ import annotations

import pytest

from tests.training import tiny


def losses(run) -> list[float]:
    return [entry["loss"] for entry in tiny.results(run)["log"] if "loss" in entry]


@pytest.fixture
def trained(bert, reviews, finetune, tmp_path):
    """Losses of three steps with the given options; dropout is on, and drawn alike."""

    def run(*words: str) -> list[float]:
        status, printed = finetune(bert, reviews, "--overwrite", *words)
        assert status == 0, printed
        assert (tmp_path / "run" / "lora_export" / "adapter_model.safetensors").is_file()
        return losses(tmp_path / "run")

    return run


def test_bf16_changes_the_losses_by_its_rounding_only(trained) -> None:
    plain, rounded = trained(), trained("--bf16", "true")
    assert rounded != plain and rounded == pytest.approx(plain, abs=1e-2)


@pytest.mark.parametrize("words", [("--gradient_checkpointing", "true"), ("--optim", "adamw_8bit")])
def test_less_memory_is_the_same_run(words, trained) -> None:
    """bitsandbytes keeps the state of tensors below 4096 numbers in 32 bits, as all are here."""
    if "adamw_8bit" in words:
        pytest.importorskip("bitsandbytes")
    assert trained(*words) == pytest.approx(trained(), abs=1e-5)


@pytest.mark.slow
def test_a_compiled_model_trains(trained) -> None:
    compiled = trained("--torch_compile", "true")
    assert len(compiled) == 3 and compiled[-1] < compiled[0]
