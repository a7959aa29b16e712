"""Options of the command that reach the adapter and its optimizer."""

from __future__ import annotations

import json

import peft
import pytest
import torch


@pytest.mark.parametrize("given", ["option", "file"])
def test_gamma_gives_the_outer_factors_a_rate_of_their_own(given, bert, reviews, finetune, tmp_path) -> None:
    words = ["--gamma", "0.01"]
    if given == "file":
        path = tmp_path / "adapter.json"
        path.write_text(json.dumps({"peft_type": "DEEP_LORA", "target_modules": ["query"], "gamma": 0.01}))
        words = ["--adapter_config", path, "--gamma", "0.1"]
    words += ["--init_batches", "0", "--save_strategy", "steps", "--save_steps", "3"]
    status, printed = finetune(bert, reviews, *words)
    assert status == 0, printed
    optimizer = torch.load(tmp_path / "run" / "checkpoint-3" / "optimizer.pt")
    assert {group["initial_lr"] for group in optimizer["param_groups"] if group["params"]} == {1e-3, 1e-5}


def test_the_norms_of_the_updates_can_be_bounded(bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, "--max_update_norm", "0.25", "--target_modules", "query")
    assert status == 0, printed
    assert json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["max_update_norm"] == 0.25
    saved = peft.load_peft_weights(str(tmp_path / "run" / "adapter"), device="cpu")
    bounds = [tensor for name, tensor in saved.items() if name.endswith("deep_lora_bound")]
    assert bounds and all(0 < bound.item() < float("inf") for bound in bounds)
