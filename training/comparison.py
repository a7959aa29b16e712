"""Deep LoRA and LoRA on the same data and seeds: runs of `finetune`, each in a folder of its own, and what they say."""

from __future__ import annotations

import gc
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from training.errors import UsageError, public_settings
from training.job import Job, plain
from training.names import COMPARISON, COMPARISON_FIGURE, OUTPUT, RESULTS
from training.results.comparison import OURS, Outcome, draw
from training.results.folders import IDENTITY, identity_of, require_writable, run_identity
from training.results.report import PACKAGES, installed_version, write_json
from training.runner import run_job
from training.settings.ranges import is_small_good
from training.trainer.digests import of_data
from training.trainer.optimizer import RATE, choose_length, choose_rate
from training.trainer.resuming import facts_of
from training.trainer.trainer import NonFiniteLoss

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # of LoRA, of which --tune chooses


class Method(NamedTuple):
    """What is compared: the name in tables, the folder, and the options of `finetune`."""

    name: str
    folder: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A comparison that can be carried out.

    Attributes:
        folder: everything is written to.
        seeds: of the pairs.
        tune: whether LoRA's rate is chosen, too.
        rate: of LoRA, otherwise; and of new heads beside either.
        make: options of a run -> its job.
    """

    folder: Path
    seeds: Sequence[int]
    tune: bool
    rate: float | None
    make: Callable[[Sequence[str]], Job]

    def job(self, method: Method, seed: int) -> Job:
        """Build the job of one run, with its data loaded."""
        place = self.folder / method.folder / f"seed-{seed}"
        words = (f"--seed={seed}", f"--sample_seed={seed}", f"--output_dir={place}", *method.words)
        job = self.make(words)
        choose_rate(job.run)
        choose_length(job.run, len(job.task.splits["train"]))
        return job


def deep_lora(rate: float | None) -> Method:
    """Return Deep LoRA with nothing set; a rate is that of new heads."""
    return Method(OURS, "deep_lora", () if rate is None else (f"--learning_rate={rate:g}",))


def lora(rate: float, name: str = "LoRA (rate {:g})") -> Method:
    """Return LoRA at a learning rate.

    >>> lora(1e-3).folder
    'lora-0.001'
    """
    return Method(name.format(rate), f"lora-{rate:g}", ("--adapter=lora", f"--learning_rate={rate:g}"))


def compare(plan: Plan, say: Callable[[str], None]) -> Outcome:
    """Train what has not been trained yet, and write table and picture.

    Args:
        plan: what is compared.
        say: is given a line for each run.

    Raises:
        UsageError: the folder holds another comparison, or an argument cannot work.
        RunError: a run stopped.
    """
    require_writable(plan.folder)
    first = plan.job(deep_lora(plan.rate), plan.seeds[0])
    _claim(plan.folder, first)
    metric = first.task.main_metric
    falling = is_small_good(metric)
    split = "test" if "test" in first.task.splits else "validation"
    usual = RATE if plan.rate is None else plan.rate
    methods = [deep_lora(plan.rate), lora(usual)]
    if plan.tune:
        best = _tuned(plan, metric, falling, say)
        methods.append(lora(best, "LoRA (tuned rate {:g})"))
    scores: dict[str, list[float]] = {method.name: [] for method in methods}
    for seed in plan.seeds:  # pair by pair
        for method in methods:
            found = _run(plan, method, seed, say, metric, split)
            scores[method.name].append(_score(found, split, metric))
    outcome = Outcome(metric, falling, split, list(plan.seeds), scores, plan.tune)
    if first.run.process_index == 0:
        _write(plan, first, outcome)
    return outcome


def _claim(folder: Path, first: Job) -> None:
    """Mark the folder as that of this comparison.

    Raises:
        UsageError: it holds another one.
    """
    path, own = folder / COMPARISON, _identity(first)
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(IDENTITY)
    except (OSError, ValueError, AttributeError):
        found = None
    if found not in (None, own) and not first.run.overwrite:
        raise UsageError(
            f"{folder} holds another comparison, with other settings or data; pass another --output_dir, or "
            "--overwrite to replace it (more --seeds, and --tune, can be added to one)"
        )
    if first.run.process_index == 0 and found != own:
        write_json(path, {"command": "compare", "status": "running", IDENTITY: own})


def _identity(first: Job) -> str:
    """Digest what decides the results: that of the first run, and the data that it is scored on."""
    scored = {name: of_data(split) for name, split in first.task.splits.items() if name != "train"}
    return identity_of({"run": run_identity(facts_of(first)), "scored": scored, "metric": first.task.main_metric})


def _tuned(plan: Plan, metric: str, falling: bool, say: Callable[[str], None]) -> float:
    """Return the rate with the best mean score of the validation data; a rate at which a run diverges is left out.

    Raises:
        UsageError: runs diverge at all rates.
    """
    means = {}
    for rate in RATES:
        found = [_run(plan, lora(rate), seed, say, metric, "validation", may_fail=True) for seed in plan.seeds]
        if all(one.get("status") == "complete" for one in found):
            means[rate] = statistics.fmean(_score(one, "validation", metric) for one in found)
    if not means:
        raise UsageError(f"at each of the rates {', '.join(f'{rate:g}' for rate in RATES)} a run of LoRA diverges")
    return min(means, key=lambda rate: means[rate] if falling else -means[rate])


def _run(
    plan: Plan,
    method: Method,
    seed: int,
    say: Callable[[str], None],
    metric: str,
    split: str,
    *,
    may_fail: bool = False,
) -> dict[str, Any]:
    """Return the results of a run, which is carried out unless it has been already."""
    job = plan.job(method, seed)
    folder, own = Path(str(job.run.output_dir)), run_identity(facts_of(job))
    found, kept = _results(folder, own), True
    wanted = ("complete", "stopped") if may_fail else ("complete",)
    if found.get("status") not in wanted:
        kept = False
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with _output(job, folder):
                run_job(job)
        except NonFiniteLoss:
            if not may_fail:
                raise
        found = _results(folder, own)
        gc.collect()
    score = f"{metric} {_score(found, split, metric):.4g}" if found.get("status") == "complete" else "diverges"
    say(f"{method.name:<24} seed {seed:<4} {split} {score}{' (from before)' if kept else ''}")
    return found


@contextmanager
def _output(job: Job, folder: Path) -> Iterator[None]:
    """Send what a run prints to a file in its folder."""
    place = folder / OUTPUT if job.run.process_index == 0 else Path(os.devnull)
    with place.open("w", encoding="utf-8") as file, redirect_stdout(file):
        yield


def _results(folder: Path, identity: str) -> dict[str, Any]:
    """Return the results of the same run, if there are some."""
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get(IDENTITY) == identity else {}


def _score(results: dict[str, Any], split: str, metric: str) -> float:
    """Return a score.

    Raises:
        UsageError: it is not a number, as a correlation where all predictions are equal.
    """
    value = results["metrics"][split].get(metric)
    if value is None:
        raise UsageError(
            f"{metric} of the {split} data is not a number in a run of {results['settings']['adapter']}, so "
            "nothing can be compared; name another metric first in --metrics, or pass more rows"
        )
    return float(value)


def _write(plan: Plan, first: Job, outcome: Outcome) -> None:
    write_json(
        plan.folder / COMPARISON,
        {
            "command": "compare",
            "status": "complete",
            IDENTITY: _identity(first),
            **outcome.as_json(),
            "settings": plain(public_settings(first.settings(), first.token)),
            "versions": {name: installed_version(name) for name in PACKAGES},
        },
    )
    draw(plan.folder / COMPARISON_FIGURE, outcome)
