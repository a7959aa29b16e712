"""MovieLens-100K as its users know it: u1, u1 to u5 and five random folds, with everyone's defaults.

Nothing is tuned: each method is its class with its defaults, on one thread. Predictions are clipped to 1 to 5. For
ranked lists, the ten best films that a user has not rated in the training part are compared with the films that they
give four or five stars in the test part. CPU seconds and peaks of memory come from a shared machine, and only their
ratios to `MatrixCompletion()` in the same split are meant to be read. Results are added split by split.

    pip install cmfrec==3.5.1.post14 implicit==0.7.3 && pip install --no-deps recbole==1.2.1
    python -m benchmarks.studies.recommenders
    python -m benchmarks.studies.recommenders --splits u1 --methods "MatrixCompletion()"
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.impute import KNNImputer
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from benchmarks.result_files import RESULTS, read_json, versions, write_json
from benchmarks.studies.ratings import Ratings, movielens
from dmf import MatrixCompletion
from dmf.ranking import ranking_metrics

OUTPUT = RESULTS / "recommenders.json"
FOLDS = 5
LIKED, TOP = 4.0, 10
NAMES = [f"{kind}{number}" for kind in ("u", "random") for number in range(1, FOLDS + 1)]
RATIOS = ("cpu_seconds", "peak_mib")
Scores = np.ndarray  # of every film for every user


def splits(ratings: Ratings) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Positions of (training, test) of every split.

    u1 to u5 are those of GroupLens: their script takes the k-th fifth of u.data, in its order, as the k-th test part,
    and recbole's file has that order. The sizes agree with those of u1.test: 459 users and 1,410 films.
    """
    everything = np.arange(len(ratings.values))
    ordered = [(np.delete(everything, part), part) for part in np.array_split(everything, FOLDS)]
    shuffled = KFold(FOLDS, shuffle=True, random_state=0).split(everything)
    return dict(zip(NAMES, [*ordered, *shuffled], strict=True))


def as_matrix(ratings: Ratings) -> csr_matrix:
    return csr_matrix((ratings.values, (ratings.rows, ratings.cols)), shape=ratings.shape)


def completion(training: Ratings, **settings: Any) -> Scores:
    model = MatrixCompletion(random_state=0, **settings)
    return model.fit(training.rows, training.cols, training.values, shape=training.shape).complete()


def completion_of_clicks(training: Ratings) -> Scores:
    """Complete the whole matrix of what was rated, 1, and what was not, 0."""
    clicked = as_matrix(training).toarray() > 0
    return MatrixCompletion(biases=False, random_state=0).fit(clicked.astype(float)).complete()


def cmfrec(training: Ratings, **settings: Any) -> Scores:
    from cmfrec import CMF

    model = CMF(nthreads=1, verbose=False, **settings).fit(as_matrix(training).tocoo())
    rows, cols = np.indices(training.shape).reshape(2, -1)
    return np.asarray(model.predict(rows, cols)).reshape(training.shape)


def cmfrec_implicit(training: Ratings) -> Scores:
    from cmfrec import CMF_implicit

    model = CMF_implicit(nthreads=1, verbose=False).fit(as_matrix(training).tocoo())
    rows, cols = np.indices(training.shape).reshape(2, -1)
    return np.asarray(model.predict(rows, cols)).reshape(training.shape)


def implicit(training: Ratings, name: str) -> Scores:
    """Fit ALS or BPR of `implicit` to which films were rated; ALS takes the stars as its confidence."""
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking

    kind = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking}[name]
    model = kind(num_threads=1, random_state=0)
    model.fit(as_matrix(training).astype(np.float32), show_progress=False)
    return model.user_factors @ model.item_factors.T


def knn_imputer(training: Ratings) -> Scores:
    table = np.full(training.shape, np.nan)
    table[training.rows, training.cols] = training.values
    filled = KNNImputer(keep_empty_features=True).fit_transform(table)
    filled[:, np.isnan(table).all(0)] = training.values.mean()  # it would fill in 0
    return filled


def biases(training: Ratings) -> Scores:
    return completion(training, rank=2, weight_decay=1e6)


def popularity(training: Ratings) -> Scores:
    return np.tile(np.bincount(training.cols, minlength=training.shape[1]).astype(float), (training.shape[0], 1))


METHODS: dict[str, tuple[bool, Callable[[Ratings], Scores]]] = {  # whether the scores are stars, and the fit
    "MatrixCompletion()": (True, completion),
    "MatrixCompletion(implicit_feedback=True)": (True, lambda training: completion(training, implicit_feedback=True)),
    "cmfrec CMF()": (True, cmfrec),
    "cmfrec CMF(add_implicit_features=True)": (True, lambda training: cmfrec(training, add_implicit_features=True)),
    "scikit-learn KNNImputer()": (True, knn_imputer),
    "biases alone": (True, biases),
    "MatrixCompletion(biases=False) on 0 and 1": (False, completion_of_clicks),
    "cmfrec CMF_implicit()": (False, cmfrec_implicit),
    "implicit AlternatingLeastSquares()": (False, lambda training: implicit(training, "als")),
    "implicit BayesianPersonalizedRanking()": (False, lambda training: implicit(training, "bpr")),
    "most rated": (False, popularity),
}
BASELINE = "MatrixCompletion()"


def evaluate(scores: Scores, training: Ratings, test: Ratings, *, stars: bool) -> dict[str, float]:
    """Return the error of the stars, where the scores are stars, and what the ranked lists are worth."""
    found: dict[str, float] = {}
    if not np.isfinite(scores).all():
        raise ValueError("some scores are NaN or infinite; give every film of every user a score")
    if stars:
        errors = np.clip(scores[test.rows, test.cols], 1, 5) - test.values
        found["rmse"] = round(float(np.sqrt(np.mean(errors**2))), 5)
    open_to = np.array(scores, dtype=float)
    open_to[training.rows, training.cols] = -np.inf
    open_to[:, np.setdiff1d(np.arange(training.shape[1]), training.cols)] = -np.inf
    lists = np.argsort(-open_to, axis=1, kind="stable")[:, :TOP]
    liked = test.values >= LIKED
    relevant = [set(test.cols[liked & (test.rows == user)].tolist()) for user in range(training.shape[0])]
    metrics = ranking_metrics(lists.tolist(), relevant, TOP)._asdict()
    return found | {name: round(value, 5) for name, value in metrics.items()}


def measured(fit: Callable[[], Scores]) -> tuple[Scores, float, float]:
    """Return the scores, CPU seconds, and how far the resident memory rose above where it was, in MiB."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier methods freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, began = resident("VmRSS"), time.process_time()
    scores = fit()
    return scores, time.process_time() - began, (resident("VmHWM") - before) / 1024


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def run(method: str, split: str, ratings: Ratings) -> dict[str, Any]:
    training, test = (ratings.select(part) for part in splits(ratings)[split])
    stars, fit = METHODS[method]
    scores, seconds, peak = measured(lambda: fit(training))
    cost = {"cpu_seconds": round(seconds, 2), "peak_mib": round(peak, 1)}
    return {"method": method, "split": split, **evaluate(scores, training, test, stars=stars), **cost}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average every method over u1 alone, u1 to u5 and the random folds; costs are ratios to the baseline's."""
    groups = {"u1": ["u1"], "u1 to u5": NAMES[:FOLDS], "random folds": NAMES[FOLDS:]}
    by_method = {name: {r["split"]: r for r in runs if r["method"] == name} for name in METHODS}
    found: dict[str, dict[str, Any]] = {}
    for name, own in by_method.items():
        rows = {}
        for group, members in groups.items():
            if all(split in own for split in members):
                scored = [key for key in ("rmse", "ndcg", "recall", "map") if key in own[members[0]]]
                rows[group] = {key: round(float(np.mean([own[s][key] for s in members])), 4) for key in scored}
        shared = sorted(own.keys() & by_method[BASELINE].keys())
        for cost in RATIOS if shared else ():
            ratios = [own[split][cost] / by_method[BASELINE][split][cost] for split in shared]
            rows[f"{cost} of {BASELINE}"] = round(float(np.median(ratios)), 2)
        if rows:
            found[name] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--splits", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    ratings = movielens()
    runs = read_json(arguments.output)["runs"] if arguments.output.exists() else []
    completion(ratings, max_epochs=1)  # so that no method pays for imports on first use
    for split, method in product(arguments.splits, arguments.methods):
        runs = [each for each in runs if (each["method"], each["split"]) != (method, split)]
        runs.append(run(method, split, ratings))
        print(runs[-1], flush=True)
        runs.sort(key=lambda each: (list(METHODS).index(each["method"]), NAMES.index(each["split"])))
        settings = {"data": "MovieLens-100K", "folds": FOLDS, "liked": LIKED, "top": TOP, "threads": 1, "seed": 0}
        installed = versions("torch", "scikit-learn", "scipy", "numpy", "cmfrec", "implicit", "deep-lora")
        write_json(
            arguments.output, {"settings": settings, "versions": installed, "summary": summary(runs), "runs": runs}
        )


if __name__ == "__main__":
    main()
