"""Tasks for language models: parts by facts, losses of the targets alone, texts that are scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.few_shot.methods import Method
from benchmarks.few_shot.one_run import measure_run
from benchmarks.few_shot.tasks import writing
from benchmarks.few_shot.tasks.base import TaskSettings
from benchmarks.few_shot.tasks.writing import Glosses, Restaurants
from tests.benchmarks.cases import write_tiny_llama

SIZES = {"samples": 6, "steps": 2, "batch": 3, "validation": 4, "test": 4, "evaluate_every": 1, "max_tokens": 60}
SETTINGS = TaskSettings(name="e2e", **SIZES)


@pytest.fixture
def tiny_model(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "llama"
    write_tiny_llama(folder, ["name[Blue Spice], area[city]: a place in the city", "a fox: a red animal"])
    monkeypatch.setattr(writing, "CACHE", folder)


@pytest.fixture
def restaurants(tmp_path, monkeypatch, tiny_model) -> Restaurants:
    """Eight facts to train and validate on, two sentences each; five to test, one of which is among the eight."""
    for file, facts in (("devset.csv", range(8)), ("testset_w_refs.csv", range(7, 12))):
        rows = [f'"name[Inn {i}]","Inn {i} is {way}."' for i in facts for way in ("nice", "old")]
        (tmp_path / file).write_text("mr,ref\n" + "\n".join(rows) + "\n", encoding="utf8")
    monkeypatch.setenv("E2E_FOLDER", str(tmp_path))
    return Restaurants(SETTINGS)


def test_no_fact_is_in_two_parts(restaurants: Restaurants) -> None:
    first, other = restaurants.split(0), restaurants.split(1)
    facts = [{restaurants.pairs[i].text for i in part} for part in first.values()]
    assert [len(part) for part in first.values()] == [6, 4, 4]
    assert not (facts[0] & facts[1] or facts[0] & facts[2] or facts[1] & facts[2])
    assert np.array_equal(first["validation"], other["validation"]) and set(first["train"]) != set(other["train"])


def test_the_score_is_minus_the_mean_loss_of_the_target_tokens(restaurants: Restaurants) -> None:
    model, part = restaurants.model(0).eval(), restaurants.split(0)["test"]
    losses = []
    for example in (restaurants.examples[i] for i in part):
        logits = model.encoder(torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
        losses += [-logits[place - 1, label] for place, label in enumerate(example["labels"]) if label >= 0]
    expected = torch.stack(losses).mean().item()
    assert restaurants.score(model, {"test": part})["test"] == pytest.approx(-expected, rel=1e-4)
    assert not any(-100 != label for label in restaurants.examples[part[0]]["labels"][:3])  # the prompt


@pytest.mark.parametrize("method", [Method("lora", {"r": 2}), Method("deep_lora", {"r": 2}, batches=1)])
def test_a_run_measures_what_is_written(method: Method, restaurants: Restaurants) -> None:
    run = measure_run(restaurants, method, 1e-3, 0, [0.01])
    assert run["written"].keys() == {"BLEU", "ROUGE-L"} and all(0 <= score <= 100 for score in run["written"].values())
    assert run["test"] < 0 and len(run["ranks"]) == 14  # two layers with seven linear maps each
    assert measure_run(restaurants, method, 1e-3, 0, [])["written"] == {}


def test_glosses_come_from_wordnet(tmp_path, monkeypatch, tiny_model) -> None:
    for part, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        lines = [f'0000{i:04} 03 {letter} 01 word{i} 0 000 | meaning {i}; "used so"  ' for i in range(5)]
        (tmp_path / f"data.{part}").write_text("\n".join(lines) + "\n", encoding="latin-1")
    monkeypatch.setenv("WORDNET_FOLDER", str(tmp_path))
    task = Glosses(SETTINGS)
    assert len(task.pairs) == 20 and "word3 (noun)" in {pair.text for pair in task.pairs}
    assert len(np.unique(np.concatenate(list(task.split(0).values())))) == 14
    monkeypatch.delenv("WORDNET_FOLDER")
    with pytest.raises(FileNotFoundError, match="WordNet is missing: set the environment variable WORDNET_FOLDER"):
        Glosses(SETTINGS)
