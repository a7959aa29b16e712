"""Every method against the modality gap on real pairs: emoji of two vendors to train on, a third vendor's to test on.

    python -m benchmarks.studies.modality_gap.comparison --data DIR/node_modules   # all runs, into runs/modality_gap
    python -m benchmarks.studies.modality_gap.comparison --at_most 5               # five; several processes may share
    python -m benchmarks.run modality_gap                                          # the result file, from these runs

The emoji come from npm packages:

    npm install --ignore-scripts --prefix runs/emoji emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \\
        @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0

The learning rate of every method is the one with the best recall@1 on validation concepts over the sweep's seeds, from
the same list for all; the test pairs play no part. Then every method runs at its rate on the same seeds. The towers are
frozen, which is cheap; some methods run once more, at the same rates, with Deep LoRA on the text tower. A process that
is killed loses its current run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.kept_runs import RunFolder
from benchmarks.result_files import SETTINGS, read_json
from benchmarks.studies.modality_gap.emoji_pairs import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    FeatureSettings,
    load_pairs,
    split_concepts,
    text_encoder,
)
from benchmarks.studies.modality_gap.methods import BASELINE, CLIP_START, METHODS
from benchmarks.studies.modality_gap.training import Settings, Task, evaluate, make_task, train
from training.results.intervals import mean_with_interval

KEPT = "runs/modality_gap/kept"
REFERENCES = (BASELINE, CLIP_START, "rising")
IN_COMMON = ("steps", "concepts_per_batch", "width", "features", "num_validation", "num_test", "split_seed")
COMPARED = ("gap", "uniformity", "recall@1", "recall@5")
REPORTED = (
    *COMPARED, "gap_beyond_sampling", "alignment", "distribution_gap", "linear_separability", "effective_rank",
    "x_to_y_recall@1", "x_to_y_recall@5", "y_to_x_recall@1", "y_to_x_recall@5",
)  # fmt: skip


class Run(NamedTuple):
    """One training run; `rank` is that of the adapter, 0 for frozen towers."""

    method: str
    rate: float
    seed: int
    rank: int

    def key(self) -> str:
        return f"{self.method} | {self.rate:g} | {self.seed} | {self.rank}"


class Campaign:
    """The runs that the settings ask for, in their order, and their outcomes."""

    def __init__(self, settings: dict[str, Any], path: Path) -> None:
        self.settings = settings
        self.folder = RunFolder(path, {name: settings[name] for name in IN_COMMON})

    def sweep(self, method: str) -> list[Run]:
        seeds, rates = self.settings["sweep_seeds"], self.settings["learning_rates"]
        return [Run(method, rate, seed, 0) for rate in rates for seed in seeds]

    def chosen_rate(self, method: str) -> float | None:
        """Choose the rate with the best mean validation recall; None while runs of the sweep are missing."""
        scores: dict[float, float] = {}
        for run in self.sweep(method):
            kept = self.folder.kept(run.key())
            if kept is None:
                return None
            scores[run.rate] = scores.get(run.rate, 0.0) + kept["metrics"]["validation"]["recall@1"]
        return max(scores, key=lambda rate: scores[rate])

    def paired(self, method: str, rank: int) -> list[Run] | None:
        """List the runs that are compared; None while the rate is not known."""
        rate, seeds = self.chosen_rate(method), self.settings["adapted_seeds" if rank else "seeds"]
        return None if rate is None else [Run(method, rate, seed, rank) for seed in seeds]

    def known(self) -> Iterator[Run]:
        """List every run that can be named by now: the sweeps, the compared runs, those with an adapter."""
        for method in self.settings["methods"]:
            yield from self.sweep(method)
        for methods, rank in (("methods", 0), ("adapted_methods", self.settings["rank"])):
            wanted = [self.paired(method, rank) or [] for method in self.settings[methods]]
            # Seed by seed, so that what is there after a while can be compared.
            yield from (run for runs in zip_longest(*wanted) for run in runs if run is not None)

    def work(self, task: Task, at_most: int | None = None) -> int:
        """Do runs that nobody has done or is doing, until none is left or `at_most` are done; return their number."""
        done = 0
        while done != at_most:
            if not any(self._do(run, task) for run in self.known()):
                break
            done += 1
        return done

    def _do(self, run: Run, task: Task) -> bool:
        if self.folder.kept(run.key()) is not None:
            return False
        with self.folder.claim(run.key()) as mine:
            if not mine or self.folder.kept(run.key()) is not None:
                return False
            self.folder.keep(run.key(), measure_run(run, self.settings, task))
        print(run.key(), flush=True)
        return True


def measure_run(run: Run, settings: dict[str, Any], task: Task) -> dict[str, Any]:
    """Train once, and measure on every set."""
    chosen = Settings(
        learning_rate=run.rate, steps=settings["steps"], concepts_per_batch=settings["concepts_per_batch"],
        width=settings["width"], rank=run.rank, seed=run.seed,
    )  # fmt: skip
    start = time.process_time()
    model = train(METHODS[run.method], chosen, task)
    return {
        "method": repr(METHODS[run.method]), "settings": asdict(chosen), "tau": model.temperature.tau,
        "cpu_seconds": time.process_time() - start, "metrics": evaluate(model, task),
    }  # fmt: skip


def load_task(settings: dict[str, Any], data: str, cache: str) -> Task:
    features = FeatureSettings(**settings["features"])
    pairs = load_pairs(data, cache, features)
    split = split_concepts(pairs, settings["num_validation"], settings["num_test"], settings["split_seed"])
    encoder, _ = text_encoder()
    return make_task(pairs, split, encoder.encoder.layer[-features.trained_layers :])


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Summarize every method, set and metric: values, their mean, and differences to the references seed by seed."""
    table: dict[str, dict[str, Any]] = {}
    for method, mine in runs.items():
        row: dict[str, Any] = {"tau": summary([run["tau"] for run in mine])}
        for part in mine[0]["metrics"]:
            row[part] = {}
            for name in REPORTED:
                values = [run["metrics"][part][name] for run in mine]
                row[part][name] = cell = summary(values) | {"values": [six_digits(value) for value in values]}
                for reference in [other for other in REFERENCES if other in runs and name in COMPARED]:
                    theirs = [run["metrics"][part][name] for run in runs[reference]]
                    pairs = list(zip(values, theirs, strict=True))
                    cell[f"minus {reference}"] = summary([a - b for a, b in pairs])
                    if name == "gap":
                        cell[f"over {reference}"] = summary([a / b for a, b in pairs])
        table[method] = row
    return table


def summary(values: list[float]) -> dict[str, Any]:
    """Round the mean and its interval."""
    return {name: six_digits(value) for name, value in mean_with_interval(values).items()}


def six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def measure(settings: dict[str, Any], data: str = DEFAULT_DATA, cache: str = DEFAULT_CACHE) -> dict[str, Any]:
    """Do all runs that are not kept yet, then compare.

    Raises:
        RuntimeError: other processes are still running some of them.
    """
    campaign = Campaign(settings, Path(KEPT))
    task = load_task(settings, data, cache)
    campaign.work(task)
    missing = [run.key() for run in campaign.known() if campaign.folder.kept(run.key()) is None]
    if missing:
        raise RuntimeError(f"other processes are doing {len(missing)} runs, such as {missing[0]!r}; wait for them")
    results: dict[str, Any] = {
        "pools": {name: len(part) for name, part in vars(task.split).items()},
        "chosen_learning_rates": {method: campaign.chosen_rate(method) for method in settings["methods"]},
    }
    for name, methods, rank in (
        ("frozen", settings["methods"], 0), ("adapted", settings["adapted_methods"], settings["rank"]),
    ):  # fmt: skip
        runs = {m: [campaign.folder.kept(run.key()) or {} for run in campaign.paired(m, rank) or []] for m in methods}
        # A control that needs no training: the references' embeddings with each modality's mean taken off.
        for reference in [method for method in (BASELINE, CLIP_START) if method in runs]:
            runs[f"mean shift of {reference}"] = [
                run | {"metrics": {"test": run["metrics"]["test, shifted"]}} for run in runs[reference]
            ]
        results[name] = compared(runs)
    results["validation_recall@1"] = {method: swept(campaign, method) for method in settings["methods"]}
    seconds = {run.key(): (campaign.folder.kept(run.key()) or {})["cpu_seconds"] for run in campaign.known()}
    results["runs"], results["cpu_seconds"] = len(seconds), round(sum(seconds.values()))
    return results


def swept(campaign: Campaign, method: str) -> dict[str, list[float]]:
    """Map each rate to its recall on validation, seed by seed, by which the rate was chosen."""
    recalls: dict[str, list[float]] = {}
    for run in campaign.sweep(method):
        metrics = (campaign.folder.kept(run.key()) or {})["metrics"]
        recalls.setdefault(format(run.rate, "g"), []).append(metrics["validation"]["recall@1"])
    return recalls


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DEFAULT_DATA, help="folder with the npm packages")
    parser.add_argument("--cache", default=DEFAULT_CACHE, help="file for the features of the frozen networks")
    parser.add_argument("--at_most", type=int, help="stop after so many runs; all by default")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    settings = read_json(SETTINGS / "modality_gap.json")
    torch.set_num_threads(settings["threads"])
    campaign = Campaign(settings, Path(KEPT))
    done = campaign.work(load_task(settings, arguments.data, arguments.cache), arguments.at_most)
    left = sum(campaign.folder.kept(run.key()) is None for run in campaign.known())
    print(f"{done} runs done, {left} known to be left")
    sys.exit(0 if done or left else 3)  # 3: nothing to do any more


if __name__ == "__main__":
    main()
