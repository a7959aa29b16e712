"""What class statistics cost: against one-hot accumulation, over the number of classes, and for NC2/NC3 at many.

    python -m benchmarks.speed.class_statistics

- `against_one_hot`: CPU time of one update at K classes against one-hot accumulation, the two taking turns in one
  process. One-hot accumulation compares labels with all classes and multiplies the (K, B) indicator with the batch:
  once for the class sums, and again, in a second pass over the data, for the squared deviations from the final means;
  the d x d covariance comes from a product of its own. Ours gets both, or all three, in one pass.
- `over_classes`: CPU time of one update from few to many classes, and its ratio to the fewest; beside it the time of
  merely reading and writing the class means that the batch touches.
- `many_classes`: NC2 and NC3 at so many classes that the K x K matrix would take 80 GB, in a fresh process that reports
  its peak memory; and the largest difference from a float64 reference that walks over K x K tiles, where both run.

Times are ratios within one process, medians with quartiles over repetitions, on one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.result_files import RESULTS, compact_json, environment, write_json
from benchmarks.speed.measuring import interleaved_seconds, peak_resident_bytes, spread
from collapse import ClassStatistics, nc2, nc3
from collapse.theory import moments_simplex_distance


def cpu_times(jobs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Measure the CPU seconds of each job; the jobs take turns after one unmeasured round."""
    return interleaved_seconds(jobs, repetitions, warmup=1, seed=0, clock=time.process_time)


def indicator(labels: Tensor, num_classes: int) -> Tensor:
    """Make the (K, B) one-hot matrix, and the count that goes with it."""
    matches = labels[:, None] == torch.arange(num_classes, dtype=torch.int32)
    matches.sum(0, dtype=torch.int32)
    return matches.mT.float()


def one_hot_jobs(features: Tensor, labels: Tensor, num_classes: int) -> dict[str, Callable[[], object]]:
    """Make what a one-hot accumulator does to a batch: sums in a first pass, scatter about the means in a second."""
    means = torch.randn(num_classes, features.shape[1])
    sums, squares = torch.zeros_like(means), torch.zeros(num_classes)
    covariance = torch.zeros(features.shape[1], features.shape[1])

    def first() -> None:
        sums.add_(indicator(labels, num_classes) @ features)

    def variance() -> None:
        squares.add_((indicator(labels, num_classes) @ (features - means[labels]) ** 2).sum(-1))

    def scatter() -> None:
        indicator(labels, num_classes)
        residuals = features - means[labels]
        covariance.add_(residuals.mT @ residuals)

    return {"sums": first, "variance": variance, "covariance": scatter}


def against_one_hot(arguments: argparse.Namespace, num_classes: int) -> dict[str, object]:
    features = torch.randn(arguments.batch, arguments.features)
    labels = torch.randint(0, num_classes, (arguments.batch,))
    jobs = {f"one_hot_{name}": job for name, job in one_hot_jobs(features, labels, num_classes).items()}
    for within in ("trace", "full"):
        ours = ClassStatistics(num_classes, arguments.features, within=within)
        jobs[f"ours_{within}"] = lambda ours=ours: ours.update(features, labels)
    times = cpu_times(jobs, arguments.repetitions)
    sums, variance = times["one_hot_sums"], times["one_hot_variance"]
    means_and_variances = [a + b for a, b in zip(sums, variance, strict=True)]
    everything = [a + b for a, b in zip(means_and_variances, times["one_hot_covariance"], strict=True)]

    def ratio(theirs: list[float], within: str) -> dict[str, float]:
        return spread([a / b for a, b in zip(theirs, times[f"ours_{within}"], strict=True)])

    return {
        "cpu_seconds": {name: spread(values) for name, values in times.items()},
        "ratio_means_alone_to_ours_trace": ratio(sums, "trace"),
        "ratio_means_and_variances_to_ours_trace": ratio(means_and_variances, "trace"),
        "ratio_with_covariance_to_ours_full": ratio(everything, "full"),
    }


def over_classes(arguments: argparse.Namespace) -> dict[str, object]:
    """Time ours, and beside it the bare reading and writing of the class means that a batch touches, the least work."""
    features = torch.randn(arguments.batch, arguments.features)
    result: dict[str, object] = {}
    for within in ("full", "trace"):
        jobs: dict[str, Callable[[], object]] = {}
        for num_classes in arguments.classes:
            ours = ClassStatistics(num_classes, arguments.features, within=within)
            labels = torch.randint(0, num_classes, (arguments.batch,))
            jobs[str(num_classes)] = lambda ours=ours, labels=labels: ours.update(features, labels)
            touched = labels.unique()
            jobs[f"bare means {num_classes}"] = lambda means=ours.means, touched=touched: means.index_copy_(
                0, touched, means.index_select(0, touched)
            )
        times = cpu_times(jobs, arguments.repetitions)
        result[within] = {
            str(count): {
                "cpu_seconds": spread(times[str(count)]),
                "bare_means_cpu_seconds": spread(times[f"bare means {count}"]),
                "ratio_to_fewest": spread(
                    [a / b for a, b in zip(times[str(count)], times[str(arguments.classes[0])], strict=True)]
                ),
            }
            for count in arguments.classes
        }
    return result


def tiled_reference(weight: Tensor, other: Tensor, tile: int = 2048) -> float:
    """Compute the distance from the simplex by walking over the K x K matrix twice, in float64."""
    left, right, num_classes = weight.double(), other.double(), len(weight)
    squares = sum((a @ right.mT).square().sum().item() for a in left.split(tile))
    norm, scale, total = squares**0.5, (num_classes - 1) ** -0.5, 0.0
    for start in range(0, num_classes, tile):
        block = left[start : start + tile] @ right.mT / norm + scale / num_classes
        rows = torch.arange(len(block))
        block[rows, start + rows] -= scale
        total += block.square().sum().item()
    return total**0.5


def collapsing(num_classes: int, dimension: int, noise: float) -> tuple[Tensor, ClassStatistics]:
    """Make classifier rows, and statistics whose class means lie near them."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(num_classes, dimension, generator=generator)
    statistics_ = ClassStatistics(num_classes, dimension, within="trace")
    for labels in torch.arange(num_classes).split(4096):
        rows = weight[labels] + noise * torch.randn(len(labels), dimension, generator=generator)
        statistics_.update(rows, labels)
    return weight, statistics_


def peak_gibibytes() -> float:
    return peak_resident_bytes() / 2**30


def many_classes_job(num_classes: int, dimension: int, connection: object) -> None:
    torch.set_num_threads(1)
    started = peak_gibibytes()
    weight, statistics_ = collapsing(num_classes, dimension, 0.5)
    inputs = peak_gibibytes()
    start = time.process_time()
    found = {"nc2": nc2(weight), "nc3": nc3(statistics_, weight), "cpu_seconds": time.process_time() - start}
    peaks = {"after_imports": started, "with_inputs": inputs, "peak": peak_gibibytes()}
    connection.send(found | {"gibibytes": peaks})  # type: ignore[attr-defined]


def many_classes(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure NC2 and NC3 at K = many in a process of its own, and the agreement with the reference at smaller K."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=many_classes_job, args=(arguments.many, arguments.features, sender))
    process.start()
    measured = receiver.recv()
    process.join()
    agreement = {}
    for num_classes in arguments.reference_classes:
        for noise in (0.5, 1e-3):
            weight, statistics_ = collapsing(num_classes, arguments.features, noise)
            pairs = {"nc2": (weight, weight), "nc3": (weight, statistics_.means)}
            agreement[f"{num_classes} classes, noise {noise}"] = {
                name: abs(moments_simplex_distance(*pair) - tiled_reference(*pair)) for name, pair in pairs.items()
            }
    return {"classes": arguments.many, **measured, "difference_from_tiled_reference": agreement}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 1000, 10_000], help="fewest first")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--many", type=int, default=100_000, help="classes for NC2 and NC3 without the matrix")
    parser.add_argument("--reference_classes", type=int, nargs="+", default=[5000, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "class_statistics.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    result = {
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"} | {"threads": 1},
        "environment": environment(),
        "against_one_hot": against_one_hot(arguments, arguments.classes[-1]),
        "over_classes": over_classes(arguments),
        "many_classes": many_classes(arguments),
    }
    write_json(arguments.output, result)
    print(compact_json(result))


if __name__ == "__main__":
    main()
