"""The few-shot campaign: paired examples, choices by validation, runs kept one by one, a page made of the results."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import evidence_campaign  # noqa: E402
import evidence_report  # noqa: E402
import evidence_tables  # noqa: E402
import run as runner  # noqa: E402
from deep_lora import DeepLoraConfig, SubspaceInitializationCallback  # noqa: E402
from deep_lora.functional import auto_core_scale  # noqa: E402
from evidence_base import Task, TaskSettings  # noqa: E402
from evidence_campaign import TASKS, Campaign, Run  # noqa: E402
from evidence_figures import FIGURES, draw_all  # noqa: E402
from evidence_methods import Method, adapted, optimizer_of  # noqa: E402
from evidence_run import effective_ranks, measure_run  # noqa: E402
from evidence_summary import summary  # noqa: E402
from evidence_tables import ahead, best_one_rate, gaps, good_values, spread  # noqa: E402

SMALL = {"samples": 8, "steps": 2, "batch": 4, "validation": 10, "test": 10, "evaluate_every": 1}
SETTINGS: dict[str, Any] = {
    "title": "tiny", "task": {"name": "simlex", **SMALL}, "baseline": "LoRA",
    "sweep_seeds": [100, 101], "export_tolerances": [0.01],
    "methods": {
        "LoRA": {"adapter": "lora", "config": {"r": 8}, "rates": [1e-4, 1e-3], "then": [{"r": 4}], "seeds": 3},
        "Deep LoRA": {"adapter": "deep_lora", "config": {"r": 8}, "batches": 4, "rates": [1e-3], "seeds": 2},
    },
}  # fmt: skip
METHODS = {
    "LoRA": Method("lora", {"r": 2}),
    "PiSSA": Method("lora", {"r": 2, "init_lora_weights": "pissa_niter_4"}),
    "LoRA-GA": Method("lora", {"r": 2, "init_lora_weights": "lora_ga"}, batches=1),
    "the paper's LoRA": Method("lora", {"r": 2}, start="normal"),
    "Deep LoRA": Method("deep_lora", {"r": 2}, batches=1),
    **{f"Deep LoRA, {start}": Method("deep_lora", {"r": 2}, 1, start=start) for start in ("aligned", "left", "right")},
    "full": Method("full"),
}


def measured(task: object, method: Method, rate: float, seed: int, tolerances: list[float]) -> dict[str, Any]:
    """Validation likes rate 3e-3 and rank 4; the test would like the smallest rate."""
    validation = 1 - abs(np.log10(rate / 3e-3)) + (method.config["r"] == 4)
    test = 1e-4 / rate + seed
    exported = [{"tolerance": 0.01, "median_rank": 1.0, "max_rank": 2, "test": test - 1.0}] if tolerances else []
    return {
        "validation": validation, "test": test, "loss": [2.0, 1.0], "trainable": 5, "cpu_seconds": 1.5,
        "curve": [{"step": 2, "validation": validation, "test": test}],
        "exported": exported if method.adapter == "deep_lora" else [],
    }  # fmt: skip


@pytest.fixture
def campaign(tmp_path, monkeypatch) -> Campaign:
    monkeypatch.setattr(evidence_campaign, "measure_run", measured)
    return Campaign(SETTINGS, tmp_path)


@pytest.fixture
def word_pairs() -> Task:
    return TASKS["simlex"](TaskSettings(name="simlex", **SMALL))


class NamedTask:
    """What the campaign asks of a task when the runs are made up."""

    settings = TaskSettings(name="made up", **SMALL)


def test_the_rate_is_chosen_by_validation_and_the_sweep_widens_at_an_end_that_is_best(campaign: Campaign) -> None:
    assert campaign.chosen("LoRA") is None and campaign.compared("LoRA") == []
    campaign.work(NamedTask(), float("inf"))
    assert campaign.swept_rates("LoRA") == [1e-4, 1e-3, 3e-3, 1e-2]
    chosen = campaign.chosen("LoRA")
    assert chosen.rate == 3e-3 and chosen.method.config == {"r": 4}
    assert campaign.compared("LoRA")[0] == Run(chosen.method, 3e-3, 0)


def test_every_run_is_made_once_by_whoever_comes(campaign: Campaign, tmp_path) -> None:
    assert campaign.work(NamedTask(), 0.0) == 0
    # 4 rates and 1 change on 2 seeds, 3 compared runs, and 2 of the method that is not swept
    assert campaign.work(NamedTask(), float("inf")) == 4 * 2 + 2 + 3 + 2
    assert Campaign(SETTINGS, tmp_path).work(NamedTask(), float("inf")) == 0
    other = SETTINGS | {"task": SETTINGS["task"] | {"steps": 3}}
    assert Campaign(other, tmp_path).missing()


def test_a_run_that_another_process_is_at_is_left_to_it(campaign: Campaign) -> None:
    first = campaign.missing()[0]
    with campaign.folder.claim(first.key()) as mine:
        assert mine
        campaign.work(NamedTask(), float("inf"))
    assert campaign.kept(first) is None and campaign.missing()[0] == first


def test_differences_are_taken_seed_by_seed_against_the_baseline(campaign: Campaign) -> None:
    campaign.work(NamedTask(), float("inf"))
    result = summary(campaign)
    lora, deep = result["methods"]["LoRA"], result["methods"]["Deep LoRA"]
    assert lora["test"]["mean"] == pytest.approx(1 + 1e-4 / 3e-3, abs=1e-5) and lora["difference"]["mean"] == 0
    assert deep["difference"]["mean"] == pytest.approx(0.1 - 1e-4 / 3e-3, abs=1e-5)
    assert (deep["seeds_won"], deep["seeds_compared"]) == (2, 2) and deep["sweep"] == []
    assert [candidate["rate"] for candidate in lora["sweep"]] == [1e-4, 1e-3, 3e-3, 1e-2, 3e-3]
    assert deep["exported"][0]["test_minus_full"]["mean"] == -1 and deep["exported"][0]["max_rank"] == 2
    assert result["cpu_seconds"] == round(1.5 * 15) and lora["loss"] == [2.0, 1.0]


def test_the_result_is_refused_while_others_are_at_it(campaign: Campaign, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evidence_campaign, "KEPT", str(tmp_path))
    monkeypatch.setattr(evidence_campaign, "task_of", lambda settings: NamedTask())
    with campaign.folder.claim(campaign.missing()[0].key()):
        with pytest.raises(RuntimeError, match="other processes are at .* runs, such as"):
            evidence_campaign.measure(SETTINGS)
    assert evidence_campaign.measure(SETTINGS)["methods"].keys() == SETTINGS["methods"].keys()


def test_a_result_is_only_added_to(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evidence_campaign, "measure_run", measured)
    monkeypatch.setattr(evidence_campaign, "task_of", lambda settings: NamedTask())
    monkeypatch.setattr(evidence_campaign, "KEPT", str(tmp_path / "kept"))
    monkeypatch.setattr(evidence_campaign, "FOLDER", tmp_path)
    (tmp_path / "results").mkdir()
    settings = SETTINGS | {"title": "made up"}
    first = {"settings": settings, "environment": "the first", **evidence_campaign.measure(settings)}
    (tmp_path / "results" / "few_shot_made_up.json").write_text(json.dumps(first))

    monkeypatch.setattr(evidence_campaign, "KEPT", str(tmp_path / "another machine"))
    more = settings | {"methods": SETTINGS["methods"] | {"new": SETTINGS["methods"]["Deep LoRA"] | {"seeds": 1}}}
    second = evidence_campaign.measure(more)
    assert second["cpu_seconds"] == round(1.5)  # one run
    assert second["methods"]["LoRA"] == first["methods"]["LoRA"] | {"environment": "the first"}
    new, baseline = second["methods"]["new"], first["methods"]["LoRA"]
    assert new["difference"]["mean"] == pytest.approx(new["test"]["mean"] - baseline["test"]["values"][0], abs=1e-5)
    assert "environment" not in new

    changed = settings | {"methods": SETTINGS["methods"] | {"LoRA": SETTINGS["methods"]["LoRA"] | {"seeds": 2}}}
    earlier = evidence_campaign.earlier_rows(changed, tmp_path / "results")
    assert earlier.keys() == {"Deep LoRA"}
    assert evidence_campaign.earlier_rows(settings | {"baseline": "Deep LoRA"}, tmp_path / "results") == {}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_starts_from_the_pretrained_model_and_trains_no_embedding(name: str, word_pairs: Task) -> None:
    method, chosen = METHODS[name], word_pairs.split(0)["train"][:4]
    model = word_pairs.model(0).eval()
    before = word_pairs.loss(model, chosen, 0).item()
    adapted(method, model, word_pairs, lambda: word_pairs.loss(model, chosen, 0).backward(), 0)
    assert word_pairs.loss(model.eval(), chosen, 0).item() == pytest.approx(before, rel=1e-3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and not any("embeddings" in name for name in trained)
    assert all(group["weight_decay"] == 0 for group in optimizer_of(method, model, 1e-3, 1e-3).param_groups)


def test_a_key_names_the_later_fields_only_when_they_are_used() -> None:
    plain = Method("lora", {"r": 2})
    assert json.loads(plain.key()) == {"adapter": "lora", "config": {"r": 2}, "batches": 0, "adam_eps": None}
    assert json.loads(replace(plain, start="normal").key())["start"] == "normal"


def test_a_restart_keeps_what_was_learned_and_starts_a_new_adapter(word_pairs: Task) -> None:
    word_pairs.settings = replace(word_pairs.settings, validation=60, test=60)  # finer rankings
    method = Method("deep_lora", {"r": 2}, batches=1, restart=1)
    run = measure_run(word_pairs, method, 1e-2, 0, [0.01])
    straight = measure_run(word_pairs, replace(method, restart=0), 1e-2, 0, [0.01])
    assert run["curve"][0] == straight["curve"][0] and run["curve"][1] != straight["curve"][1]
    assert run["loss"] == straight["loss"] and run["exported"] == [] and run["ranks"] == []


@pytest.mark.parametrize("name", ["LoRA", "Deep LoRA"])
def test_effective_ranks_are_those_of_the_dense_update(name: str, word_pairs: Task) -> None:
    method, model, chosen = METHODS[name], word_pairs.model(0), word_pairs.split(0)["train"][:4]
    adapted(method, model, word_pairs, lambda: word_pairs.loss(model, chosen, 0).backward(), 0)
    assert set(effective_ranks(method, model)) == {0}
    generator = torch.Generator().manual_seed(0)
    for parameter in model.encoder.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    values = [torch.linalg.svdvals(m.get_delta_weight("default")) for m in model.encoder.modules()
              if hasattr(m, "get_delta_weight")]  # fmt: skip
    assert effective_ranks(method, model) == [int((v > 0.01 * v[0]).sum()) if v[0] > 1e-3 else 0 for v in values]


def test_an_unknown_adapter_is_refused(word_pairs: Task) -> None:
    with pytest.raises(ValueError, match="`adapter` must be 'lora', 'deep_lora' or 'full', got 'dora'"):
        adapted(Method("dora"), word_pairs.model(0), word_pairs, lambda: None, 0)


def test_a_run_repeats_to_the_digit_and_its_export_scores_alike(word_pairs: Task) -> None:
    runs = [measure_run(word_pairs, METHODS["Deep LoRA"], 1e-3, 0, [0.01]) for _ in range(2)]
    for run in runs:
        del run["cpu_seconds"]
    assert runs[0] == runs[1] and [point["step"] for point in runs[0]["curve"]] == [1, 2]
    assert runs[0]["exported"][0]["test"] == pytest.approx(runs[0]["test"], abs=0.02)


def test_the_runner_makes_a_result_file_of_tiny_settings(tmp_path, monkeypatch) -> None:
    tiny = SETTINGS | {"benchmark": "few_shot", "threads": torch.get_num_threads(), "sweep_seeds": [100]}
    tiny["methods"] = {
        "LoRA": {"adapter": "lora", "config": {"r": 2}, "rates": [1e-3], "seeds": 1},
        "Deep LoRA": {"adapter": "deep_lora", "config": {"r": 2}, "batches": 1, "rates": [1e-3], "seeds": 1},
    }
    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    monkeypatch.setattr(evidence_campaign, "KEPT", str(tmp_path / "kept"))
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "tiny.json").write_text(json.dumps(tiny))
    result = json.loads(runner.run("tiny", repeats=None, output=None).read_text())
    assert result["settings"] == tiny and list(result["methods"]) == ["LoRA", "Deep LoRA"]
    assert all(abs(row["test"]["mean"]) > 0 for row in result["methods"].values())


def test_deep_lora_of_the_settings_is_the_default_of_the_library() -> None:
    default = SubspaceInitializationCallback()
    found = 0
    for path in (FOLDER / "settings").glob("few_shot_*.json"):
        method = json.loads(path.read_text(encoding="utf8"))["methods"].get("Deep LoRA")
        if method is None:
            continue
        found += 1
        config, library = dict(method["config"]), DeepLoraConfig(r=method["config"]["r"])
        assert config.pop("core_scale") == pytest.approx(auto_core_scale(library.r, library.init_scale))
        assert all(getattr(library, field) == value for field, value in config.items()), path.stem
        sides = method.get("start") or method.get("sides", "right")  # the campaign's own right start is the library's
        assert (method["batches"], sides) == (default.num_batches, default.sides), path.stem
    assert found > 5


def test_the_range_of_good_rates_and_the_spread_over_ranks() -> None:
    scores = {value: {"mean": mean} for value, mean in [(2.0, 0.1), (4.0, 0.2), (8.0, 0.5), (64.0, 0.495)]}
    assert good_values(scores) == [8.0, 64.0] and spread(scores) == pytest.approx(0.3)  # ranks 4 to 64


def test_differences_are_taken_seed_by_seed_and_then_averaged_over_settings(monkeypatch) -> None:
    scores = {
        "one": {"LoRA, tuned": [0.5, 0.6], "LoRA, not tuned": [0.4, 0.6], "Deep LoRA": [0.53, 0.61]},
        "two": {"LoRA, tuned": [0.7, 0.7, 0.1], "LoRA, not tuned": [0.7, 0.6, 0.1], "Deep LoRA": [0.71, 0.68, 0.2]},
    }
    table = {name: {m: {"test": {"values": values}} for m, values in row.items()} for name, row in scores.items()}
    monkeypatch.setattr(evidence_tables, "methods_of", table.__getitem__)
    assert gaps("one", "Deep LoRA", "LoRA, tuned") == pytest.approx([0.03, 0.01])
    # the seeds that both settings have: (3 + 1) / 2 and (1 - 2) / 2 points, so 0.75 in the mean and one of two won
    assert ahead(["one", "two"], "Deep LoRA", "LoRA, tuned").startswith("+0.8 [")
    assert ahead(["one", "two"], "Deep LoRA", "LoRA, tuned").endswith(", 1 of 2")
    assert ahead(["one", "two"], "Deep LoRA, depth 5", "LoRA, tuned") == ""
    monkeypatch.setattr(evidence_tables, "averaged", lambda falling: ["one", "two"])
    assert best_one_rate(falling=True) == "LoRA, not tuned"  # the other rates are in no setting
    for row in table.values():
        row["LoRA, not tuned, 3e-4"] = row["LoRA, tuned"]
    assert best_one_rate(falling=True) == "LoRA, not tuned, 3e-4"


def test_a_field_that_the_sweep_left_alone_is_said_to_be_the_default(monkeypatch) -> None:
    asked = {"methods": {"tuned": {"config": {"r": 8}, "then": [{"depth": 5}]}}}
    row: dict = {"tuned": {"chosen": {"rate": 1.0, "config": {"r": 8}}}}
    monkeypatch.setattr(evidence_tables, "settings_of", lambda name: asked)
    monkeypatch.setattr(evidence_tables, "methods_of", lambda name: row)
    assert evidence_tables.tuned_fields("any", "tuned") == "depth as by default"
    row["tuned"]["chosen"]["config"]["depth"] = 5
    assert evidence_tables.tuned_fields("any", "tuned") == "depth 5"


def test_the_page_is_what_the_results_files_say_and_shows_every_figure(tmp_path) -> None:
    page = evidence_report.PAGE.read_text(encoding="utf8")
    assert evidence_report.with_tables(page) == page, "run `python benchmarks/evidence_report.py --write`"
    drawn = draw_all(tmp_path)
    assert [path.stem for path in drawn] == list(FIGURES) and all(path.stat().st_size for path in drawn)
    for path in drawn:
        assert f"(images/{path.name})" in page and (evidence_report.DOCS / "images" / path.name).is_file()
