"""The pages of the few-shot study: what their tables say of the results, and figures."""

from __future__ import annotations

import json

import pytest

from benchmarks.few_shot import comparisons, goals
from benchmarks.few_shot.comparisons import gaps, good_values, spread
from benchmarks.pages import __main__ as pages
from benchmarks.pages import few_shot_figures, few_shot_overview, few_shot_tables
from benchmarks.pages.drawing import draw
from benchmarks.pages.few_shot_overview import ahead, best_one_rate
from benchmarks.result_files import SETTINGS
from deep_lora import DeepLoraConfig, SubspaceInitializationCallback
from deep_lora.functional import auto_core_scale


def test_deep_lora_of_the_settings_is_the_default_of_the_library() -> None:
    default = SubspaceInitializationCallback()
    found = 0
    for path in SETTINGS.glob("few_shot_*.json"):
        method = json.loads(path.read_text(encoding="utf8"))["methods"].get("Deep LoRA")
        if method is None:
            continue
        found += 1
        config, library = dict(method["config"]), DeepLoraConfig(r=method["config"]["r"])
        assert config.pop("core_scale") == pytest.approx(auto_core_scale(library.r, library.init_scale))
        assert all(getattr(library, field) == value for field, value in config.items()), path.stem
        sides = method.get("start") or method.get("sides", "right")  # the study's own right start is the library's
        assert (method["batches"], sides) == (default.num_batches, default.sides), path.stem
    assert found > 5


def test_the_range_of_good_rates_and_the_spread_over_ranks() -> None:
    scores = {value: {"mean": mean} for value, mean in [(2.0, 0.1), (4.0, 0.2), (8.0, 0.5), (64.0, 0.495)]}
    assert good_values(scores) == [8.0, 64.0] and spread(scores) == pytest.approx(0.3)  # ranks 4 to 64


def test_the_goals_over_rates_and_ranks_compare_a_family_with_lora(monkeypatch) -> None:
    def family(*means: float) -> dict[float, dict[str, float]]:
        return {value: {"mean": mean} for value, mean in zip((1e-3, 1e-2, 1e-1, 1.0), means, strict=True)}

    found = {
        "LoRA": family(0.5, 0.5, 0.1, 0.1),
        "wide": family(0.5, 0.5, 0.5, 0.5),
        "wider": family(0.4, 0.5, 0.5, 0.5),
    }
    monkeypatch.setattr(goals, "OURS", ("wide", "wider"))
    monkeypatch.setattr(goals, "of_kind", lambda kind: ["one"])
    monkeypatch.setattr(goals, "title", lambda name: "One")
    monkeypatch.setattr(goals, "family_means", {"one": found}.__getitem__)
    rows = goals.rate_insensitivity()
    answers = {goal.split(",")[0]: rest for goal, *rest in rows}
    assert answers == {  # three decades against one, then two
        "wide": ["0.001 to 1; LoRA 0.001 to 0.01", "yes"],
        "wider": ["0.01 to 1; LoRA 0.001 to 0.01", "no"],
    }
    flat = {rank: {"mean": 0.5 + share} for rank, share in ((4.0, 0.0), (8.0, 0.002), (64.0, 0.001))}
    steep = {rank: {"mean": 0.5 + 4 * (row["mean"] - 0.5)} for rank, row in flat.items()}
    steeper = {rank: {"mean": 0.5 + 9 * (row["mean"] - 0.5)} for rank, row in flat.items()}
    found = {"LoRA, 1e-3": steep, "LoRA, 3e-3": steeper, "wide": flat, "wider": steep}
    monkeypatch.setattr(goals, "family_means", {"one": found}.__getitem__)
    assert [row[1:] for row in goals.rank_insensitivity()] == [  # against the steadier of the LoRAs
        ["0.2 points, LoRA 0.8", "yes"],
        ["0.8 points, LoRA 0.8", "no"],
    ]


def test_the_gain_is_asked_for_on_two_tasks_at_either_size(monkeypatch) -> None:
    settings = {f"{task} {size}": {"task": {"name": task, "samples": size}} for task in "ab" for size in (64, 256)}
    settings["a 64 noisy"] = settings["a 64"]
    monkeypatch.setattr(goals, "OURS", ("ours",))
    monkeypatch.setattr(goals, "in_points", lambda: list(settings))
    monkeypatch.setattr(goals, "settings_of", settings.__getitem__)
    monkeypatch.setattr(goals, "title", str)

    def answered(low: float, *lost: str) -> list[str]:
        won, none = {"mean": 0.02, "low": low, "high": 0.1}, {"mean": 0.01, "low": 0.001, "high": 0.1}
        rows = {name: {"ours": {"difference": none if name in lost else won}} for name in settings}
        monkeypatch.setattr(goals, "methods_of", rows.__getitem__)
        [row] = goals.gains()
        return row[1:]

    assert answered(0.001)[1] == "yes" and answered(-0.001) == ["in 0 of 5 settings", "no"]
    assert answered(0.001, "b 64")[1] == "no" and answered(0.001, "a 64 noisy")[1] == "yes"
    assert answered(0.001, "b 64", "b 256", "a 256", "a 64")[0] == "in 1 of 5 settings: a 64 noisy +2.0 [+0.1, +10.0]"


def test_differences_are_taken_seed_by_seed_and_then_averaged_over_settings(monkeypatch) -> None:
    scores = {
        "one": {"LoRA, tuned": [0.5, 0.6], "LoRA, not tuned": [0.4, 0.6], "Deep LoRA": [0.53, 0.61]},
        "two": {"LoRA, tuned": [0.7, 0.7, 0.1], "LoRA, not tuned": [0.7, 0.6, 0.1], "Deep LoRA": [0.71, 0.68, 0.2]},
    }
    table = {name: {m: {"test": {"values": values}} for m, values in row.items()} for name, row in scores.items()}
    for module in (comparisons, few_shot_overview):
        monkeypatch.setattr(module, "methods_of", table.__getitem__)
    assert gaps("one", "Deep LoRA", "LoRA, tuned") == pytest.approx([0.03, 0.01])
    # the seeds that both settings have: (3 + 1) / 2 and (1 - 2) / 2 points, so 0.75 in the mean and one of two won
    assert ahead(["one", "two"], "Deep LoRA", "LoRA, tuned").startswith("+0.8 [")
    assert ahead(["one", "two"], "Deep LoRA", "LoRA, tuned").endswith(", 1 of 2")
    assert ahead(["one", "two"], "Deep LoRA, depth 5", "LoRA, tuned") == ""
    monkeypatch.setattr(few_shot_overview, "averaged", lambda falling: ["one", "two"])
    assert best_one_rate(falling=True) == "LoRA, not tuned"  # the other rates are in no setting
    for row in table.values():
        row["LoRA, not tuned, 3e-4"] = row["LoRA, tuned"]
    assert best_one_rate(falling=True) == "LoRA, not tuned, 3e-4"


def test_a_field_that_the_sweep_left_alone_is_said_to_be_the_default(monkeypatch) -> None:
    asked = {"methods": {"tuned": {"config": {"r": 8}, "then": [{"depth": 5}]}}}
    row: dict = {"tuned": {"chosen": {"rate": 1.0, "config": {"r": 8}}}}
    monkeypatch.setattr(few_shot_tables, "settings_of", lambda name: asked)
    monkeypatch.setattr(few_shot_tables, "methods_of", lambda name: row)
    assert few_shot_tables.tuned_fields("any", "tuned") == "depth as by default"
    row["tuned"]["chosen"]["config"]["depth"] = 5
    assert few_shot_tables.tuned_fields("any", "tuned") == "depth 5"


def test_the_page_is_what_the_results_files_say_and_shows_every_figure() -> None:
    paths = [pages.DOCS / name for name in ("few_shot.md", "few_shot_tables.md")]
    page, tables = (path.read_text(encoding="utf8") for path in paths)
    for path, text in zip(paths, (page, tables), strict=True):
        assert pages.with_tables(path, text) == text, "run `python -m benchmarks.pages --write`"
    for name in pages.FEW_SHOT:
        assert (page + tables).count(f"<!-- {name}: begin -->") == 1, f"{name} belongs on one of the pages"
    assert all(f"(images/{name})" in page for name in few_shot_figures.FIGURES)


def test_every_figure_of_the_docs_can_be_drawn_and_is_on_a_page(tmp_path) -> None:
    drawn = draw(pages.FIGURES, tmp_path)
    assert all(path.stat().st_size for path in drawn)
    assert {path.name for path in drawn} == {path.name for path in (pages.DOCS / "images").iterdir()}
    text = "".join(path.read_text(encoding="utf8") for path in pages.DOCS.glob("*.md"))
    assert all(f"(images/{path.name})" in text for path in drawn)
