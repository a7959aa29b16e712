"""Missing values of tables: `MatrixCompletion().fit_transform(X)` beside scikit-learn's imputers, all with defaults.

A fifth of the entries of three tables is hidden at random, five times. Columns are standardized for every method
alike, by the entries that are left, so that KNN and the errors do not depend on their units; an error of 1 is that of
the mean.
Two more numbers are of new ratings: half of the ratings of 94 new users of MovieLens-100K are folded in, and the other
half is predicted.

    pip install --no-deps recbole==1.2.1
    python -m benchmarks.studies.imputation
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.impute import KNNImputer, SimpleImputer
from threadpoolctl import threadpool_limits

from benchmarks.result_files import RESULTS, versions, write_json
from benchmarks.studies.ratings import Ratings, movielens
from dmf import MatrixCompletion
from training.results.intervals import mean_with_interval

SEEDS = range(5)
MISSING = 0.2
NEW_USERS = 94  # a tenth
TABLES: dict[str, Callable[[], np.ndarray]] = {
    "breast cancer": lambda: load_breast_cancer().data,
    "wine": lambda: load_wine().data,
    "diabetes": lambda: load_diabetes(scaled=False).data,
}


def iterative_imputer(seed: int) -> Any:
    import_module("sklearn.experimental.enable_iterative_imputer")
    return import_module("sklearn.impute").IterativeImputer(random_state=seed, keep_empty_features=True)


IMPUTERS: dict[str, Callable[[int], Any]] = {
    "MatrixCompletion()": lambda seed: MatrixCompletion(random_state=seed),
    "SimpleImputer()": lambda seed: SimpleImputer(keep_empty_features=True),
    "KNNImputer()": lambda seed: KNNImputer(keep_empty_features=True),
    "IterativeImputer()": iterative_imputer,
}


def hidden(table: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the table with entries hidden and columns standardized, and the whole one in the same units."""
    table = table[:, table.std(0) > 0]
    mask = np.random.default_rng(seed).random(table.shape) < MISSING
    seen = np.where(mask, np.nan, table)
    deviation = np.nanstd(seen, 0)
    units = np.where(deviation > 0, deviation, 1.0)
    mean = np.nanmean(seen, 0)
    return (seen - mean) / units, (table - mean) / units


def impute(table: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    data, truth = hidden(table, seed)
    missing = np.isnan(data)
    found = {}
    for name, make in IMPUTERS.items():
        began = time.process_time()
        error = (make(seed).fit_transform(data) - truth)[missing]
        seconds = round(time.process_time() - began, 3)
        found[name] = {"rmse": round(float(np.sqrt(np.mean(error**2))), 5), "cpu_seconds": seconds}
    return found


def new_users(ratings: Ratings, seed: int) -> dict[str, float]:
    """Compare folding in with a new fit, and with what is known of the films alone."""
    rng = np.random.default_rng(seed)
    new = np.isin(ratings.rows, rng.permutation(ratings.shape[0])[:NEW_USERS])
    asked = new & (rng.random(len(new)) < 0.5)
    known, given, test = (ratings.select(np.flatnonzero(part)) for part in (~new, new & ~asked, asked))

    def fitted(*parts: Ratings) -> MatrixCompletion:
        rows, cols, values = (np.concatenate([getattr(p, name) for p in parts]) for name in ("rows", "cols", "values"))
        return MatrixCompletion(random_state=0).fit(rows, cols, values, shape=ratings.shape)

    def error(model: MatrixCompletion) -> float:
        return round(-model.score(test.rows, test.cols, test.values), 5)

    model = fitted(known)
    unseen = error(model)
    began = time.process_time()
    seen = np.isin(given.cols, model.columns_)  # a film without ratings of the others would be new, too
    model.fold_in(given.rows[seen], given.cols[seen], given.values[seen])
    folded, seconds = error(model), time.process_time() - began
    began = time.process_time()
    whole = fitted(known, given)
    again = time.process_time() - began
    return {
        "films alone": unseen,
        "folded in": folded,
        "fitted anew": error(whole),
        "cpu_seconds": round(seconds, 3),
        "cpu_seconds_of_the_fit": round(again, 3),
    }


def means(runs: list[dict[str, float]], name: str) -> dict[str, float]:
    found = mean_with_interval([run[name] for run in runs])
    return {part: round(found[part], 4) for part in ("mean", "low", "high")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "imputation.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")  # IterativeImputer's default stops before it has converged
    runs = {name: [impute(load(), seed) for seed in SEEDS] for name, load in TABLES.items()}
    folding = [new_users(movielens(), seed) for seed in SEEDS]
    table = {
        name: {method: means([run[method] for run in found], "rmse") for method in IMPUTERS}
        for name, found in runs.items()
    }
    result = {
        "settings": {"missing": MISSING, "seeds": list(SEEDS), "new_users": NEW_USERS, "threads": 1},
        "versions": versions("torch", "scikit-learn", "scipy", "numpy", "deep-lora"),
        "table": table,
        "new_users": {name: means(folding, name) for name in ("films alone", "folded in", "fitted anew")},
        "runs": {"tables": runs, "new_users": folding},
    }
    write_json(arguments.output, result)
    print(result["table"], result["new_users"], sep="\n")


if __name__ == "__main__":
    main()
