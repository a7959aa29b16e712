"""The search for a step rule: its order of trials, and that it looks at no compared seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.result_files import SETTINGS, read_json, result
from benchmarks.studies import step_search
from benchmarks.studies.step_search import Trial, measure, trials_of


def test_the_search_does_whole_comparisons_seed_by_seed() -> None:
    settings = read_json(SETTINGS / "step_search.json")
    trials = list(trials_of(settings))
    wanted = 0
    for asked in settings["settings"].values():
        once = set(asked["variants"]) & set(asked.get("one_seed", settings["one_seed"]))
        fewer = dict.fromkeys(once, 1) | asked.get("fewer_seeds", {})
        wanted += sum(fewer.get(variant, asked["seeds"]) for variant in asked["variants"])
    assert len(trials) == len(set(trials)) == wanted
    first = next(iter(settings["settings"]))
    assert trials[0] == Trial(first, settings["settings"][first]["variants"][0], settings["first_seed"])
    bases = [asked.get("base", setting) for setting, asked in settings["settings"].items()]
    assert all((SETTINGS / f"{base}.json").is_file() for base in bases)
    assert min(trial.seed for trial in trials) >= 200  # of the compared seeds none


def test_what_the_result_file_has_is_not_run_again_unless_it_was_another_rule(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(step_search, "KEPT", tmp_path)
    ran = list[Trial]()

    def counted(settings: dict[str, Any], chosen: Trial) -> dict[str, Any]:
        ran.append(chosen)
        return chosen._asdict()

    monkeypatch.setattr(step_search, "trial", counted)
    found = result("step_search")
    settings = found["settings"]
    assert measure(settings)["trials"] == found["trials"] and not ran
    variant = found["trials"][0]["variant"]
    changed = settings["variants"] | {variant: settings["variants"][variant] | {"rate": 0.5}}
    again = measure(settings | {"variants": changed})["trials"]
    assert {trial.variant for trial in ran} == {variant}
    assert len(ran) == sum(trial["variant"] == variant for trial in again)
    assert sum("validation" not in trial for trial in again) == len(ran)
