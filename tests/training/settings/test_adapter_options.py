"""Options of the command that reach the adapter and its optimizer."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel

from deep_lora import DeepLoraConfig
from training.errors import UsageError
from training.settings.adapter import AdapterArguments
from training.trainer.optimizer import optimizer_settings


@pytest.mark.parametrize("given", ["option", "file"])
def test_gamma_gives_the_outer_factors_a_rate_of_their_own(given, bert, reviews, finetune, tmp_path) -> None:
    words = ["--gamma", "0.01"]
    if given == "file":
        path = tmp_path / "adapter.json"
        path.write_text(json.dumps({"peft_type": "DEEP_LORA", "target_modules": ["query"]}))
        words += ["--adapter_config", path]
    words += ["--init_batches", "0", "--save_strategy", "steps", "--save_steps", "3"]
    status, printed = finetune(bert, reviews, *words)
    assert status == 0, printed
    optimizer = torch.load(tmp_path / "run" / "checkpoint-3" / "optimizer.pt")
    assert {group["initial_lr"] for group in optimizer["param_groups"] if group["params"]} == {3e-3, 3e-5}


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ([], 3e-3),
        (["--lr_scheduler_type", "constant"], 1e-3),
        (["--adapter", "lora"], 1e-3),
        (["--learning_rate", "0.02"], 0.02),
    ],
)
def test_the_rate_that_is_not_given_fits_adapter_and_schedule(words, rate, bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, *words)
    assert status == 0 and f", learning rate {rate:g}\n" in printed, printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["settings"]["learning_rate"] == rate
    assert max(entry.get("learning_rate", 0.0) for entry in results["log"]) == rate


def test_the_norms_of_the_updates_can_be_bounded(bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, "--max_update_norm", "0.25", "--target_modules", "query")
    assert status == 0, printed
    assert json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["max_update_norm"] == 0.25
    saved = peft.load_peft_weights(str(tmp_path / "run" / "adapter"), device="cpu")
    bounds = [tensor for name, tensor in saved.items() if name.endswith("deep_lora_bound")]
    assert bounds and all(0 < bound.item() < float("inf") for bound in bounds)


def test_steps_can_be_limited_and_the_head_has_a_rate_of_its_own(bert, reviews, finetune, tmp_path) -> None:
    words = ["--learning_rate", "10", "--max_update_norm", "0.4", "--max_relative_step", "0.02"]
    words += ["--other_learning_rate", "1e-4", "--lr_scheduler_type", "constant", "--init_batches", "0"]
    words += ["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "5", "--target_modules", "query"]
    status, printed = finetune(bert, reviews, *words)
    assert status == 0, printed
    folders = [tmp_path / "run" / f"checkpoint-{step}" for step in (1, 2, 3)]
    saved = [peft.load_peft_weights(str(folder), device="cpu") for folder in folders]
    names = [name for name in saved[0] if name.endswith(("_U", "_V", "_core"))]
    assert names
    for before, after in zip(saved, saved[1:], strict=False):
        shares = [((after[name] - before[name]).norm() / before[name].norm()).item() for name in names]
        assert shares == pytest.approx([0.02] * len(names), rel=1e-4)
    groups = torch.load(folders[0] / "optimizer.pt")["param_groups"]
    assert {(group["name"], group["lr"]) for group in groups if "other" in group["name"]} == {
        ("other", 1e-4), ("other_no_decay", 1e-4),
    }  # fmt: skip


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_limited_steps_are_refused_where_an_optimizer_sees_pieces(variable, bert, monkeypatch) -> None:
    model = get_peft_model(AutoModel.from_pretrained(bert), DeepLoraConfig(max_update_norm=0.4))
    arguments = AdapterArguments(max_relative_step=0.015)
    assert optimizer_settings(arguments, model) == {"max_relative_step": 0.015}
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UsageError, match="flattened pieces; use DDP or FSDP 2"):
        optimizer_settings(arguments, model)
    monkeypatch.setenv("FSDP_VERSION", "2")
    if variable == "ACCELERATE_USE_FSDP":
        assert optimizer_settings(arguments, model) == {"max_relative_step": 0.015}
    monkeypatch.setenv("FSDP_VERSION", "1")
    assert optimizer_settings(AdapterArguments(other_learning_rate=0.1), model) == {"other_lr": 0.1}
