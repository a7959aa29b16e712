"""Trials of step rules on validation data, each kept: which guard, which path, Deep LoRA against LoRA.

    python -m benchmarks.studies.step_search                # every trial of settings/step_search.json
    python -m benchmarks.studies.step_search --minutes 5    # start no trial after five minutes
    python -m benchmarks.run step_search                         # the result file, from the kept trials

The seeds are compared nowhere else, and no test example is looked at. What the result file has is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from benchmarks.few_shot.campaign import quiet
from benchmarks.few_shot.methods import Method, optimizer_of
from benchmarks.few_shot.one_run import four_digits, measured, schedule_of, start_from
from benchmarks.few_shot.tasks import Task, task_of
from benchmarks.kept_runs import RunFolder
from benchmarks.result_files import RESULTS, SETTINGS, read_json, result
from benchmarks.step_guards import PathRule, RuledSteps

KEPT = Path("runs/step_rule/kept")
WINDOW = 10  # a tenth of a run is one window of its losses


class Trial(NamedTuple):
    """One training run."""

    setting: str
    variant: str
    seed: int


def trials_of(settings: dict[str, Any]) -> Iterator[Trial]:
    """List the trials seed by seed, so that an early stop leaves whole comparisons."""
    for seed in range(max(asked["seeds"] for asked in settings["settings"].values())):
        for setting, asked in settings["settings"].items():
            if seed < asked["seeds"]:
                names = asked.get("variants", settings["variants"])
                seeds = dict.fromkeys(asked.get("one_seed", settings["one_seed"]), 1) | asked.get("fewer_seeds", {})
                names = [name for name in names if seed < seeds.get(name, asked["seeds"])]
                yield from (Trial(setting, name, settings["first_seed"] + seed) for name in names)


def trial(settings: dict[str, Any], chosen: Trial) -> dict[str, Any]:
    """Train once; return the validation score, the mean loss of the first and the last tenth, and the guard."""
    variant = settings["variants"][chosen.variant]
    task = _task(settings, chosen.setting)
    method = Method(variant["adapter"], variant["config"], variant["batches"])
    parts = task.split(chosen.seed)
    batches = task.batches(parts.pop("train"), chosen.seed)
    model = task.model(chosen.seed)
    start_from(task, method, model, batches, chosen.seed)
    optimizer = optimizer_of(method, model, variant["rate"], task)
    schedule = schedule_of(task, optimizer)
    rule = variant.get("rule")
    asked = None if rule is None else PathRule(**rule)
    ruled = None if asked is None else RuledSteps(optimizer, model.encoder, len(batches), asked, schedule)
    losses = []
    for step, batch in enumerate(batches, start=1):
        model.train()
        torch.manual_seed(chosen.seed * 1_000_003 + step)  # the same dropout for every variant
        loss = task.loss(model, batch, chosen.seed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    window = max(1, len(losses) // WINDOW)
    return {
        **chosen._asdict(),
        "validation": measured(task, model, {"validation": parts["validation"]})["validation"],
        "first_loss": four_digits(fmean(losses[:window])),
        "last_loss": four_digits(fmean(losses[-window:])),
        "mean_guard": None if ruled is None else four_digits(fmean(ruled.guards)),
    }


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Do the trials that are not kept yet; return all of them."""
    work(settings, until=float("inf"))
    return {"trials": [_kept(settings, chosen)[0] for chosen in trials_of(settings)]}


def work(settings: dict[str, Any], until: float) -> int:
    """Do trials that are not kept and that no other process is doing; return how many are left to do."""
    quiet()
    left = 0
    for chosen in trials_of(settings):
        kept, folder, key = _kept(settings, chosen)
        if kept is None and time.time() < until:
            with folder.claim(key) as mine:
                if mine and folder.kept(key) is None:
                    folder.keep(key, trial(settings, chosen))
                    print(folder.kept(key), flush=True)
        left += kept is None and folder.kept(key) is None
    return left


def _kept(settings: dict[str, Any], chosen: Trial) -> tuple[dict[str, Any] | None, RunFolder, str]:
    """Find a trial by all that decides it, so that settings that are added leave what is kept."""
    folder = RunFolder(KEPT, _decides(settings, chosen))
    key = "|".join(map(str, chosen))
    return folder.kept(key) or _earlier(settings, chosen), folder, key


def _decides(settings: dict[str, Any], chosen: Trial) -> dict[str, Any]:
    asked = settings["settings"][chosen.setting]
    return {"task": asked.get("task", {}), "variant": settings["variants"][chosen.variant]}


def _earlier(settings: dict[str, Any], chosen: Trial) -> dict[str, Any] | None:
    """Return the trial of the result file, if all that decides it is unchanged."""
    found, trials = _result()
    if chosen not in trials or _decides(found, chosen) != _decides(settings, chosen):
        return None
    return trials[chosen]


@cache
def _result() -> tuple[dict[str, Any], dict[Trial, dict[str, Any]]]:
    """Read the settings and the trials of the result file, if there is one."""
    if not (RESULTS / "step_search.json").is_file():
        return {}, {}
    found = result("step_search")
    return found["settings"], {Trial(one["setting"], one["variant"], one["seed"]): one for one in found["trials"]}


def _task(settings: dict[str, Any], setting: str) -> Task:
    """Make the task of a few-shot setting, changed where the search asks for it (`base`, `task`)."""
    asked = settings["settings"][setting]
    few_shot = read_json(SETTINGS / f"{asked.get('base', setting)}.json")
    return task_of(few_shot | {"task": few_shot["task"] | asked.get("task", {})})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after so many minutes")
    parser.add_argument("--only", nargs="+", help="names of the few-shot settings to try")
    arguments = parser.parse_args()
    until = time.time() + 60 * arguments.minutes
    settings = read_json(SETTINGS / "step_search.json")
    if arguments.only:
        settings["settings"] = {name: settings["settings"][name] for name in arguments.only}
    torch.set_num_threads(settings["threads"])
    print(f"{work(settings, until)} trials are left")


if __name__ == "__main__":
    main()
