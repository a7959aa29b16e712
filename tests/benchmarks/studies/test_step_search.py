"""The search for a step rule: its order of trials, and that it looks at no compared seed."""

from __future__ import annotations

from benchmarks.result_files import SETTINGS, read_json
from benchmarks.studies.step_search import Trial, trials_of


def test_the_search_does_whole_comparisons_seed_by_seed() -> None:
    settings = read_json(SETTINGS / "step_search.json")
    trials = list(trials_of(settings))
    wanted = 0
    for asked in settings["settings"].values():
        once = set(asked["variants"]) & set(asked.get("one_seed", settings["one_seed"]))
        wanted += asked["seeds"] * len(asked["variants"]) - (asked["seeds"] - 1) * len(once)
    assert len(trials) == len(set(trials)) == wanted
    first = next(iter(settings["settings"]))
    assert trials[0] == Trial(first, settings["settings"][first]["variants"][0], settings["first_seed"])
    bases = [asked.get("base", setting) for setting, asked in settings["settings"].items()]
    assert all((SETTINGS / f"{base}.json").is_file() for base in bases)
    assert min(trial.seed for trial in trials) >= 200  # of the compared seeds none
