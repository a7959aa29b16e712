"""The table of the trials of step rules, for `docs/few_shot.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.result_files import SETTINGS, read_json, result

NAMES = {
    "simlex": "SimLex-999",
    "wordsim": "WordSim-353",
    "rotten_tomatoes": "reviews",
    "stsb": "STS-B",
    "rare_words": "Rare Words",
    "men": "MEN",
    "e2e": "E2E (nats)",
}
PERCENT = 100


def step_search() -> str:
    """Write a row for each variant: validation score and loss of the last tenth, means over the seeds of all."""
    found = result("step_search")
    settings = found["settings"]["settings"]
    rows = [[variant] for variant in found["settings"]["variants"]]
    names = []
    for setting, asked in settings.items():
        trials = [one for one in found["trials"] if one["setting"] == setting]
        seeds = set.intersection(*({one["seed"] for one in trials if one["variant"] == v} for v in asked["variants"]))
        for row in rows:
            own = [one for one in trials if one["variant"] == row[0] and one["seed"] in seeds]
            row.append(_cell(setting, own))
        names.append(_name(setting, asked) + (f", {len(seeds)} seeds" if len(seeds) > 1 else ""))
    return markdown(["validation (loss of the last tenth)", *names], rows)


def _cell(setting: str, trials: list[dict]) -> str:
    if not trials:
        return ""
    score, loss = (fmean(one[name] for one in trials) for name in ("validation", "last_loss"))
    shown = f"{score:.2f}" if "e2e" in setting else f"{PERCENT * score:.1f}"
    return f"{shown} ({loss:.2g})"


def _name(setting: str, asked: dict[str, Any]) -> str:
    task = read_json(SETTINGS / f"{asked.get('base', setting)}.json")["task"] | asked.get("task", {})
    return f"{NAMES[task['name']]}, {task['samples']}" + (", noisy" if task.get("noise") else "")


TABLES: Mapping[str, Callable[[], str]] = {"step search": step_search}
