"""How fast features collapse, and how well they classify, with each loss: Fashion-MNIST, small ResNet, paired seeds.

    python -m benchmarks.studies.neural_collapse.images
    python -m benchmarks.studies.neural_collapse.images --seeds 0 1 2 3 4 --steps 2000
    python -m benchmarks.studies.neural_collapse.images --smoke         # a few steps, to see that it runs

Learning rates are swept for every method (and scale) on seeds of their own, and chosen by accuracy on validation
images that are neither trained on nor tested on. Then every method runs with its rate on the same seeds: the steps that
it needs to reach the final NC1 of plain cross entropy on that seed, and its test accuracy with a paired interval. Every
curve is in the result file, which is written after each run: rerun the same command to resume.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from benchmarks.kept_runs import KeptRuns
from benchmarks.paired import BASELINE, compare
from benchmarks.result_files import RESULTS
from benchmarks.studies.neural_collapse.network import DEFAULT_DATA, Images, SmallResNet, fashion_mnist
from benchmarks.studies.neural_collapse.training import METHODS, ON_THE_SPHERE, Settings, train_network


def variants(methods: list[str], scales: list[float]) -> dict[str, tuple[str, float | None]]:
    """Map name to (method, scale): every method on the sphere with every scale."""
    found: dict[str, tuple[str, float | None]] = {}
    for method in methods:
        if method in ON_THE_SPHERE:
            found |= {f"{method} scale={scale:g}": (method, scale) for scale in scales}
        else:
            found[method] = (method, None)
    return found


def splits(arguments: argparse.Namespace) -> dict[str, Images]:
    """Take training images, validation images that follow them class by class, and test images."""
    whole = fashion_mnist(arguments.data, "train")
    both = whole.first_per_class(arguments.per_class + arguments.validation_per_class)
    train = whole.first_per_class(arguments.per_class)
    rank = torch.zeros(len(both.labels), dtype=torch.long)
    for label in both.labels.unique():
        members = both.labels == label
        rank[members] = torch.arange(int(members.sum()))
    held = rank >= arguments.per_class
    test = fashion_mnist(arguments.data, "t10k").first_per_class(arguments.test_per_class)
    return {"train": train, "validation": Images(both.pixels[held], both.labels[held]), "test": test}


def curve_of(settings: Settings, arguments: argparse.Namespace, data: dict[str, Images], part: str) -> dict:
    """Train once; return lists over the measured steps, empty if the run diverged before the first of them."""
    run = train_network(settings, partial(SmallResNet, arguments.width), data["train"], data[part])
    complete = bool(run.points) and run.points[-1].step == settings.steps
    curve: dict[str, list[float]] = {"step": [float(point.step) for point in run.points]}
    for name in run.points[0].metrics if run.points else ():
        curve[name] = [float(f"{point.metrics[name]:.6g}") for point in run.points]
    return {"settings": asdict(settings), "complete": complete, "curve": curve}


class Runner:
    """The runs that the result file does not have yet."""

    def __init__(self, arguments: argparse.Namespace, results: KeptRuns) -> None:
        self.arguments, self.results, self.data = arguments, results, splits(arguments)
        self.named = variants(arguments.methods, arguments.scales)

    def once(self, stage: str, name: str, rate: float, seed: int) -> dict:
        """Run a variant once, measured on validation images in the sweep and on test images in the end."""
        runs, key = self.results.runs, f"{stage} | {name} | {rate:g} | {seed}"
        if key not in runs:
            method, scale = self.named[name]
            steps, every = self.arguments.steps, self.arguments.measure_every
            settings = Settings(method, rate, scale, steps=steps, measure_every=every, seed=seed)
            part = "validation" if stage == "sweep" else "test"
            runs[key] = curve_of(settings, self.arguments, self.data, part)
            self.results.save()
            print(key, "done" if runs[key]["complete"] else "diverged", flush=True)
        return runs[key]

    def best_rate(self, name: str) -> float | None:
        """Choose the rate with the best validation accuracy among those that never diverge."""
        scores = {}
        for rate in self.arguments.learning_rates:
            runs = [self.once("sweep", name, rate, seed) for seed in self.arguments.sweep_seeds]
            if all(run["complete"] for run in runs):
                scores[rate] = sum(run["curve"]["test_accuracy"][-1] for run in runs)
        return max(scores, key=lambda rate: scores[rate]) if scores else None

    def run_all(self) -> dict[str, float]:
        """Do the sweep, then the paired seeds, the variants taking turns; return the chosen rate of every variant."""
        rates = {name: self.best_rate(name) for name in self.named}
        chosen = {name: rate for name, rate in rates.items() if rate is not None}
        for seed in self.arguments.seeds:
            for name, rate in chosen.items():
                self.once("final", name, rate, seed)
        return chosen


def table(results: KeptRuns, chosen: dict[str, float], seeds: list[int]) -> dict[str, dict[str, object]]:
    """Compare methods with plain cross entropy; seeds that diverged are left out."""
    curves: dict[str, dict[int, dict[str, list[float]]]] = {}
    for name, rate in chosen.items():
        finished = {seed: results.runs[f"final | {name} | {rate:g} | {seed}"] for seed in seeds}
        curves[name] = {seed: run["curve"] for seed, run in finished.items() if run["complete"]}
    return compare(curves, BASELINE, "nc1", ["test_accuracy", "train_accuracy", "nc1", "nc2", "nc3", "nc4", "cdnv"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0, 6.0, 12.0])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[0.01, 0.03, 0.1, 0.3])
    parser.add_argument("--sweep_seeds", type=int, nargs="+", default=[100])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--measure_every", type=int, default=50)
    parser.add_argument("--per_class", type=int, default=600)
    parser.add_argument("--validation_per_class", type=int, default=200)
    parser.add_argument("--test_per_class", type=int, default=1000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default=DEFAULT_DATA)
    parser.add_argument("--output", type=Path, default=RESULTS / "neural_collapse_images.json")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few images")
    arguments = parser.parse_args()
    if BASELINE not in arguments.methods:
        parser.error(f"--methods must include {BASELINE}, which the others are compared with")
    if arguments.smoke:
        arguments.steps, arguments.measure_every, arguments.width = 12, 4, 4
        arguments.per_class = arguments.validation_per_class = arguments.test_per_class = 20
        arguments.scales, arguments.learning_rates = [6.0], [0.03, 0.1]
        arguments.seeds = [0, 1]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    kept = {key: value for key, value in vars(arguments).items() if key not in ("output", "data", "threads")}
    results = KeptRuns(arguments.output, kept)
    chosen = Runner(arguments, results).run_all()
    summary = table(results, chosen, arguments.seeds)
    results.save(chosen_learning_rates=chosen, table=summary)
    for name, row in summary.items():
        accuracy, ratio = row["test_accuracy"], row["mean_ratio"]
        print(f"{name:24s} rate {chosen[name]:<6g} accuracy {accuracy}  steps over baseline {ratio}")


if __name__ == "__main__":
    main()
