"""Tables and figures of the few-shot study say what its results say; its method is the library's default."""

from __future__ import annotations

import json

import pytest

from benchmarks.few_shot import comparisons
from benchmarks.few_shot.comparisons import (
    FRESH,
    LATER,
    RULED,
    ahead,
    all_gaps,
    best_one_rate,
    families,
    gaps,
    methods_of,
    overall,
    spread,
    tuned_method,
)
from benchmarks.few_shot.methods import Method
from benchmarks.pages import __main__ as pages
from benchmarks.pages import few_shot_tables
from benchmarks.pages.drawing import draw
from benchmarks.result_files import SETTINGS
from deep_lora import DeepLoraCallback, DeepLoraConfig


def test_deep_lora_of_the_settings_is_the_default_of_the_library() -> None:
    """Nothing is set but the rank and the path, which is the rule's own choice; the rate is that of a head."""
    callback, default, found = DeepLoraCallback(), DeepLoraConfig(), 0
    for path in SETTINGS.glob("few_shot_*.json"):
        asked = json.loads(path.read_text(encoding="utf8"))["methods"].get(RULED)
        if asked is not None:
            found += 1
            assert asked["config"] == {"r": default.r} and asked["batches"] == callback.num_batches, path.stem
            assert asked["path"] is callback.path is None and "rule" not in asked and len(asked["rates"]) == 1, (
                path.stem
            )
    assert found > 15
    assert Method("deep_lora", {"r": 8}).sides == "right"


@pytest.fixture
def scores(monkeypatch):
    """Two settings with the test scores of a few methods, in place of the results."""
    values = {
        "one": {"LoRA, tuned": [0.5, 0.6], "LoRA, not tuned": [0.4, 0.6], RULED: [0.53, 0.61]},
        "two": {"LoRA, tuned": [0.7, 0.7, 0.1], "LoRA, not tuned": [0.7, 0.6, 0.1], RULED: [0.71, 0.68, 0.2]},
    }
    table = {name: {m: {"test": {"values": of}} for m, of in row.items()} for name, row in values.items()}
    monkeypatch.setattr(comparisons, "methods_of", table.__getitem__)
    return table


def test_differences_are_taken_seed_by_seed_and_then_averaged_over_settings(scores) -> None:
    assert gaps("one", RULED, "LoRA, tuned") == pytest.approx([0.03, 0.01])
    found = ahead(["one", "two"], RULED, "LoRA, tuned")
    # the seeds that both settings have: (3 + 1) / 2 and (1 - 2) / 2 points, so 0.75 in the mean and one of two won
    assert found is not None and found["mean"] == pytest.approx(0.0075) and (found["won"], found["seeds"]) == (1, 2)
    assert ahead(["one", "two"], "LoRA, step rule", "LoRA, tuned") is None


def test_fresh_seeds_are_counted_beside_the_first_ones(scores, monkeypatch) -> None:
    scores["one_fresh"] = {"LoRA, tuned": {"test": {"values": [0.4]}}, RULED: {"test": {"values": [0.42]}}}
    monkeypatch.setattr(comparisons, "has", lambda name, *methods: name in scores)
    assert all_gaps("one", RULED, "LoRA, tuned") == pytest.approx([0.03, 0.01, 0.02])
    assert all_gaps("two", RULED, "LoRA, tuned") == pytest.approx([0.01, -0.02, 0.1])
    found = overall("one", RULED)
    assert found["mean"] == pytest.approx(0.02) and (found["won"], found["seeds"]) == (3, 3)
    means = ahead(["one", "two"], RULED, "LoRA, tuned", all_gaps)
    assert means is not None and means["mean"] == pytest.approx(0.025) and means["seeds"] == 3


@pytest.mark.parametrize(("ending", "count", "first_seed"), [(FRESH, 28, 10), (LATER, 5, 20)])
def test_fresh_seeds_are_no_seeds_of_an_earlier_comparison_and_no_method_is_tuned_on_them(
    ending: str, count: int, first_seed: int
) -> None:
    paths = list(SETTINGS.glob(f"few_shot_*{ending}.json"))
    assert len(paths) == count
    for path in paths:
        first_path = SETTINGS / f"{path.stem.removesuffix(ending)}.json"
        asked, first = (json.loads(one.read_text(encoding="utf8")) for one in (path, first_path))
        chosen = methods_of(path.stem.removeprefix("few_shot_").removesuffix(ending))
        assert asked["task"] == first["task"] and asked["sweep_seeds"] == first["sweep_seeds"]
        for method, row in asked["methods"].items():
            assert row["rates"] == [chosen[method]["chosen"]["rate"]] and "then" not in row, (path.stem, method)
            assert row["config"] == chosen[method]["chosen"]["config"], (path.stem, method)
            assert row.get("batch_size") == chosen[method]["chosen"].get("batch_size"), (path.stem, method)
        assert asked["first_seed"] == first_seed and {row["seeds"] for row in asked["methods"].values()} == {10}
        assert max(row["seeds"] for row in first["methods"].values()) <= 10


def test_the_best_single_rate_has_the_best_mean(scores, monkeypatch) -> None:
    monkeypatch.setattr(comparisons, "with_all_rates", lambda: ["one", "two"])
    for row in scores.values():
        row["LoRA, not tuned, 3e-4"] = row["LoRA, tuned"]
        row["LoRA, not tuned, 3e-3"] = {"test": {"values": [0.0, 0.0, 0.0]}}
    assert best_one_rate() == "LoRA, not tuned, 3e-4"


def test_families_are_methods_that_differ_in_one_option_with_all_their_seeds(monkeypatch) -> None:
    values = {
        "any": {"LoRA, rate 0.1": [0.1, 0.2], "LoRA, rate 1e-05": [0.3], "LoRA, tuned": [0.5], "LoRA, r=4": [0.5]},
        "any_fresh": {"LoRA, rate 0.1": [0.6]},
    }
    table = {name: {m: {"test": {"values": of}} for m, of in row.items()} for name, row in values.items()}
    monkeypatch.setattr(comparisons, "methods_of", table.__getitem__)
    monkeypatch.setattr(comparisons, "has", lambda name, *methods: table.get(name, {}).keys() >= set(methods))
    found = families("any", "rate ")["LoRA"]
    assert list(found) == [1e-05, 0.1] and [row["seeds"] for row in found.values()] == [1, 3]
    assert [row["mean"] for row in found.values()] == pytest.approx([0.3, 0.3])
    assert spread(found.values()) == pytest.approx(0)


def test_the_tuned_lora_of_other_lengths_was_tuned_for_its_rate_alone(monkeypatch) -> None:
    table = {"one": {"LoRA, tuned": {}, "LoRA, tuned rate": {}}, "short": {"LoRA, tuned rate": {}}}
    monkeypatch.setattr(comparisons, "methods_of", table.__getitem__)
    assert [tuned_method(name) for name in table] == ["LoRA, tuned", "LoRA, tuned rate"]


def test_a_difference_is_written_with_its_interval_and_the_seeds_won() -> None:
    row = {"difference": {"mean": 0.012, "low": -0.001, "high": 0.025}, "seeds_won": 7, "seeds_compared": 10}
    assert few_shot_tables.difference(row) == "+1.2 [-0.1, +2.5], 7 of 10" and few_shot_tables.difference(None) == ""


def test_the_pages_show_every_table_and_every_figure_once(tmp_path) -> None:
    paths = [pages.DOCS / name for name in ("few_shot.md", "few_shot_method.md")]
    text = "".join(path.read_text(encoding="utf8") for path in paths)
    for name in few_shot_tables.TABLES:
        assert text.count(f"<!-- {name}: begin -->") == 1, f"{name} belongs on one of the pages"
    everywhere = "".join(path.read_text(encoding="utf8") for path in pages.DOCS.glob("*.md"))
    drawn = draw(pages.FIGURES, tmp_path)
    assert len(drawn) == len(pages.FIGURES) and all(path.stat().st_size for path in drawn)
    shown = {path.name for path in (pages.DOCS / "images").iterdir()}
    assert shown == {path.name for path in drawn}, "old figures are deleted"
    assert [path.name for path in drawn if f"(images/{path.name})" not in everywhere] == []
