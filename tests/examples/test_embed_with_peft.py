"""Embeddings do not depend on `deep_lora`, and a difference is told."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import deep_lora  # noqa: F401  (what must not be imported beside it)
from tests.examples import cases

example = cases.load("embed_with_peft")


def run(monkeypatch, tmp_path, found: torch.Tensor, given: dict) -> dict:
    (tmp_path / "texts.json").write_text(json.dumps(given), encoding="utf8")
    monkeypatch.setattr(example, "embed", lambda *_: found)
    words = ["model", "adapter", tmp_path / "texts.json", tmp_path / "out.json"]
    assert cases.run(example, monkeypatch, *words) == 0
    return json.loads((tmp_path / "out.json").read_text(encoding="utf8"))


def test_an_embedding_that_may_depend_on_deep_lora_is_not_written(tmp_path, monkeypatch) -> None:
    assert "deep_lora" in sys.modules
    with pytest.raises(RuntimeError, match="deep_lora was imported in this process; the embeddings must not depend"):
        run(monkeypatch, tmp_path, torch.zeros(1, 2), {"texts": ["a text"]})
    assert not (tmp_path / "out.json").exists()


def test_embeddings_that_differ_by_more_than_rounding_do_not_agree(tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "deep_lora")
    expected = torch.tensor([[1.0, -2.0], [0.5, 0.25]], dtype=torch.float64)
    given = {"texts": ["a", "b"], "expected": expected.tolist()}
    assert run(monkeypatch, tmp_path, expected * (1 + 1e-8), given)["agrees"]
    other = run(monkeypatch, tmp_path, expected + torch.tensor([[0.0, 0.0], [-0.4, 0.0]]), given)
    assert not other["agrees"] and other["largest_relative_difference"] == pytest.approx(0.2)


def test_without_anything_to_compare_with_embeddings_are_written(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delitem(sys.modules, "deep_lora")
    found = run(monkeypatch, tmp_path, torch.tensor([[0.0, 1.0], [2.0, 1.0]]), {"texts": ["a", "b"]})
    assert found["embeddings"] == [[0, 1], [2, 1]]
    assert capsys.readouterr().out == f"2 texts, 2 numbers each: {tmp_path / 'out.json'}\n"
    assert "\n    2 texts, 384 numbers each: embeddings.json\n" in example.__doc__
