"""The runs of the few-shot study: methods, rates and seeds, chosen by validation scores alone, kept one by one.

    python -m benchmarks.few_shot.campaign               # every run of all settings/few_shot_*.json, in their order
    python -m benchmarks.few_shot.campaign --minutes 4   # start no run after four minutes; several processes may share
    python -m benchmarks.few_shot.campaign --only few_shot_simlex_64
    python -m benchmarks.run few_shot_simlex_64          # the result file, from the kept runs

A method with several rates is swept: the rate with the best mean validation score over the sweep's seeds is chosen. If
it is the smallest or the largest, one more is tried beyond it. With `batch_sizes` each of them has a sweep of its own.
`then` names changes of the configuration that are tried at the best. Then every method runs on the same seeds, and is
tested once, after the last step. Settings of one task share their runs. A process that is killed loses its current run.
What the result file already has is not run again: a method with the same settings, a validation score of any sweep, and
the tests of a method that chose the same. Results are only added.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from transformers.utils import logging

from benchmarks.few_shot.methods import Method
from benchmarks.few_shot.one_run import measure_run
from benchmarks.few_shot.summary import Row, summary
from benchmarks.few_shot.tasks import Task, task_of
from benchmarks.kept_runs import RunFolder
from benchmarks.result_files import RESULTS, SETTINGS, read_json

KEPT = "runs/few_shot/kept"
COMPARISON = (
    "title",
    "task",
    "baseline",
    "sweep_seeds",
    "export_tolerances",
    "first_seed",
)  # what makes two results one comparison
LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


class Run(NamedTuple):
    """One training run."""

    method: Method
    rate: float
    seed: int

    def key(self) -> str:
        return f"{self.method.key()} | {self.rate:g} | {self.seed}"


class Chosen(NamedTuple):
    """The choice for a method, by validation scores."""

    method: Method
    rate: float

    def key(self) -> str:
        return f"{self.method.key()} | {self.rate:g}"


class Campaign:
    """The runs that one set of settings asks for, in their order, and their outcomes."""

    def __init__(self, settings: dict[str, Any], path: Path, earlier: dict[str, Row] | None = None) -> None:
        self.settings, self.earlier = settings, earlier or {}
        self.folder = RunFolder(path, settings["task"])
        self.swept_before = {
            self._choice_of(name, candidate).key(): candidate["validation"]
            for name, row in self.earlier.items()
            for candidate in row["sweep"]
        }

    def kept(self, run: Run) -> dict[str, Any] | None:
        return self.folder.kept(run.key())

    def sweep_of(self, method: Method, rate: float) -> list[Run]:
        return [Run(method, rate, seed) for seed in self.settings["sweep_seeds"]]

    def validation(self, method: Method, rate: float) -> float | None:
        """Average the validation score over the sweep's seeds; None while one is missing."""
        scores = self.validations(method, rate)
        return None if scores is None else fmean(scores)

    def validations(self, method: Method, rate: float) -> list[float] | None:
        """Return the validation scores on the sweep's seeds, measured now or before; None while one is missing."""
        if (before := self.swept_before.get(Chosen(method, rate).key())) is not None:
            return before
        kept = [self.kept(run) for run in self.sweep_of(method, rate)]
        return None if None in kept else [run["validation"] for run in kept if run]

    def swept(self, name: str) -> list[Chosen]:
        """List the rates that are tried, at every batch size that the settings name."""
        asked, method, usual = self.settings["methods"][name], self.method(name), self.settings["task"].get("batch")
        sizes = [0 if size == usual else size for size in asked.get("batch_sizes", [method.batch_size])]
        variants = [replace(method, batch_size=size) for size in sizes]
        return [Chosen(variant, rate) for variant in variants for rate in self._swept_rates(variant, asked["rates"])]

    def _swept_rates(self, method: Method, asked: list[float]) -> list[float]:
        """List the rates of the settings, and those beyond an end that is the best so far."""
        rates = sorted(asked)
        while len(rates) > 1:
            scores = [self.validation(method, rate) for rate in rates]
            if None in scores:
                break
            best, ends = scores.index(max(s for s in scores if s is not None)), (0, len(rates) - 1)
            places = {0: LADDER.index(rates[0]) - 1, ends[1]: LADDER.index(rates[-1]) + 1}
            if best not in ends or not 0 <= places[best] < len(LADDER):
                break
            rates = sorted([*rates, LADDER[places[best]]])
        return rates

    def method(self, name: str) -> Method:
        asked = self.settings["methods"][name]
        return Method(**{f.name: asked[f.name] for f in fields(Method) if f.name in asked})

    def candidates(self, name: str) -> Iterator[Chosen]:
        """List what the sweep tries: all rates, then the changed configurations at the best of them."""
        yield from self.swept(name)
        changes = self.settings["methods"][name].get("then", [])
        best = self._best(self.swept(name))
        if best is not None:
            yield from (Chosen(best.method.changed(change), best.rate) for change in changes)

    def chosen(self, name: str) -> Chosen | None:
        """Choose the candidate with the best validation score; None while the sweep is not complete."""
        if self._best(self.swept(name)) is None:
            return None
        return self._best(list(self.candidates(name)))

    def _best(self, candidates: list[Chosen]) -> Chosen | None:
        if len(candidates) == 1:
            return candidates[0]
        scores = [self.validation(*candidate) for candidate in candidates]
        if None in scores:
            return None
        return candidates[scores.index(max(score for score in scores if score is not None))]

    def compared(self, name: str) -> list[Run]:
        """List the runs on the seeds that are compared; none while the choice is open, or if they were made before."""
        chosen = self.chosen(name)
        first = self.settings.get("first_seed", 0)
        seeds = range(self.settings["methods"][name]["seeds"])
        return [] if chosen is None or self.twin(name) else [Run(*chosen, first + seed) for seed in seeds]

    def twin(self, name: str) -> Row | None:
        """Return the earlier row of a method that chose the same and was tested on as many seeds, if there is one."""
        seeds = self.settings["methods"][name]["seeds"]
        for other, row in self.earlier.items():
            if self._choice_of(other, row["chosen"]) == self.chosen(name) and len(row["test"]["values"]) == seeds:
                return row
        return None

    def _choice_of(self, name: str, described: dict[str, Any]) -> Chosen:
        """Read a choice that a result describes."""
        varied = {"config": described["config"], "batch_size": described.get("batch_size", 0)}
        return Chosen(replace(self.method(name), **varied), described["rate"])

    def known(self) -> Iterator[Run]:
        """List every run that can be named by now: the sweeps, then the compared runs, seed by seed."""
        methods = {name: asked for name, asked in self.settings["methods"].items() if name not in self.earlier}
        for name in methods:
            if self.chosen(name) is None or len(methods[name]["rates"]) > 1:
                unknown = [tried for tried in self.candidates(name) if self.validations(*tried) is None]
                yield from (run for candidate in unknown for run in self.sweep_of(*candidate))
        for runs in zip_longest(*[self.compared(name) for name in methods]):
            yield from (run for run in runs if run is not None)

    def missing(self) -> list[Run]:
        return [run for run in self.known() if self.kept(run) is None]

    def work(self, task: Task, until: float) -> int:
        """Do runs that nobody has done or is doing, until none is left or the time is `until`; return their number."""
        done = 0
        while time.time() < until and any(self._do(run, task) for run in self.missing()):
            done += 1
        return done

    def _do(self, run: Run, task: Task) -> bool:
        with self.folder.claim(run.key()) as mine:
            if not mine or self.kept(run) is not None:
                return False
            tolerances = [] if run.seed in self.settings["sweep_seeds"] else self.settings["export_tolerances"]
            measured = measure_run(task, run.method, run.rate, run.seed, tolerances)
            self.folder.keep(run.key(), measured)
        print(f"{task.settings.name} | {run.key()} | {measured['validation']} | {measured['test']}", flush=True)
        return True


def earlier_rows(settings: dict[str, Any], results: Path) -> dict[str, Row]:
    """Read from a result file of the same comparison the rows of the methods whose settings are unchanged."""
    for path in sorted(results.glob("few_shot_*.json")):
        found = read_json(path)
        if any(found["settings"].get(field) != settings.get(field) for field in COMPARISON):
            continue
        asked, measured = settings["methods"], found["settings"]["methods"]
        return {
            name: {"environment": found["environment"], **row}
            for name, row in found["methods"].items()
            if asked.get(name) == measured[name]
        }
    return {}


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Do all runs that are not kept yet, then summarize them.

    Raises:
        RuntimeError: other processes are still running some of them.
    """
    quiet()
    campaign = Campaign(settings, Path(KEPT), earlier_rows(settings, RESULTS))
    if campaign.missing():
        campaign.work(task_of(settings), float("inf"))
    if missing := campaign.missing():
        raise RuntimeError(
            f"other processes are doing {len(missing)} runs, such as {missing[0].key()!r}; wait for them"
        )
    return summary(campaign)


def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many minutes")
    parser.add_argument("--only", nargs="+", help="names of settings; by default all few_shot_* by their `order`")
    arguments = parser.parse_args()
    until, done, left = time.time() + 60 * arguments.minutes, 0, 0
    quiet()
    paths = [SETTINGS / f"{name}.json" for name in arguments.only or []]
    every = paths or SETTINGS.glob("few_shot_*.json")
    for settings in sorted((read_json(path) for path in every), key=lambda settings: settings["order"]):
        torch.set_num_threads(settings["threads"])
        campaign = Campaign(settings, Path(KEPT), earlier_rows(settings, RESULTS))
        if campaign.missing() and time.time() < until:
            done += campaign.work(task_of(settings), until)
        left += len(campaign.missing())
    print(f"{done} runs done, {left} known to be left")
    sys.exit(0 if done or left else 3)  # 3: nothing to do any more


if __name__ == "__main__":
    main()
