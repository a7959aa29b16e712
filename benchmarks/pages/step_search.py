"""The table of the trials of step rules, for `docs/few_shot.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean

from benchmarks.markdown import markdown
from benchmarks.result_files import SETTINGS, read_json, result

NAMES = {
    "simlex": "SimLex-999",
    "wordsim": "WordSim-353",
    "rotten_tomatoes": "reviews",
    "stsb": "STS-B",
    "e2e": "E2E (nats)",
}
PERCENT = 100


def step_search() -> str:
    """Write a row for each variant: validation score and loss of the last tenth on the seed that all variants share."""
    found = result("step_search")
    settings = found["settings"]["settings"]
    trials = [one for one in found["trials"] if one["seed"] == found["settings"]["first_seed"]]
    rows = []
    for variant in found["settings"]["variants"]:
        cells = [
            [one for one in trials if (one["setting"], one["variant"]) == (setting, variant)] for setting in settings
        ]
        rows.append([variant, *(_cell(setting, own) for setting, own in zip(settings, cells, strict=True))])
    return markdown(["validation (loss of the last tenth)", *map(_name, settings)], rows)


def _cell(setting: str, trials: list[dict]) -> str:
    if not trials:
        return ""
    score, loss = (fmean(one[name] for one in trials) for name in ("validation", "last_loss"))
    shown = f"{score:.2f}" if "e2e" in setting else f"{PERCENT * score:.1f}"
    return f"{shown} ({loss:.2g})"


def _name(setting: str) -> str:
    task = read_json(SETTINGS / f"{setting}.json")["task"]
    return f"{NAMES[task['name']]}, {task['samples']}" + (", noisy" if task.get("noise") else "")


TABLES: Mapping[str, Callable[[], str]] = {"step search": step_search}
