"""Options of the command that reach the adapter and its optimizer."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ([], 1e-3),
        (["--path_length", "0"], 1e-3),
        (["--adapter", "lora"], 1e-3),
        (["--learning_rate", "0.02"], 0.02),
    ],
)
def test_the_rate_that_is_not_given_fits_adapter_and_schedule(words, rate, bert, reviews, finetune, tmp_path) -> None:
    status, printed = finetune(bert, reviews, *words)
    assert status == 0 and f"learning rate  {rate:g}\n" in printed, printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["settings"]["learning_rate"] == rate
    assert max(entry.get("learning_rate", 0.0) for entry in results["log"]) == rate
