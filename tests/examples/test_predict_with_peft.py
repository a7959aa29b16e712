"""A prediction does not depend on `deep_lora`, and a difference of logits is told."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import deep_lora  # noqa: F401  (what must not be imported beside it)
from tests.examples import cases

predict_with_peft = cases.load("predict_with_peft")


def test_a_prediction_that_may_depend_on_deep_lora_is_not_written(tmp_path, monkeypatch) -> None:
    assert "deep_lora" in sys.modules
    (tmp_path / "texts.json").write_text('["a text"]', encoding="utf8")
    monkeypatch.setattr(predict_with_peft, "compute_logits", lambda *_: torch.zeros(1, 2))
    words = ["--model", "m", "--adapter", "a", "--texts", tmp_path / "texts.json", "--output", tmp_path / "logits.json"]
    with pytest.raises(RuntimeError, match="deep_lora was imported in this process; the prediction must not depend"):
        cases.run(predict_with_peft, monkeypatch, *words)
    assert not (tmp_path / "logits.json").exists()


def test_logits_that_differ_by_more_than_rounding_do_not_agree() -> None:
    expected = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)
    assert predict_with_peft.agreement(expected * (1 + 1e-8), expected)["agrees"]
    other = predict_with_peft.agreement(expected + torch.tensor([[0.0, 0.0], [-0.4, 0.0]]), expected)
    assert not other["agrees"] and other["max_relative_logit_difference"] == pytest.approx(0.2)
    assert (other["same_class"], other["sentences"]) == (1, 2)


def test_without_logits_to_compare_with_classes_and_logits_are_written(tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "deep_lora")
    (tmp_path / "texts.json").write_text('["a", "b"]', encoding="utf8")
    monkeypatch.setattr(predict_with_peft, "compute_logits", lambda *_: torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    words = ["--model", "m", "--adapter", "a", "--texts", tmp_path / "texts.json", "--output", tmp_path / "out.json"]
    assert cases.run(predict_with_peft, monkeypatch, *words) == 0
    assert json.loads((tmp_path / "out.json").read_text())["classes"] == [1, 0]
