"""The tables and the figure of `docs/dmf.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.markdown import interval, markdown
from benchmarks.pages.drawing import Figures
from benchmarks.result_files import result
from training.results.figures import figure

COSTS = {"cpu_seconds": "CPU time", "peak_mib": "memory"}
OURS, OTHERS = "#1f5fa8", "#8c8c8c"
GROUPS = ("u1", "u1 to u5", "random folds")
TITLES = {"rmse": "Ratings: {best} is best", "ndcg": "Lists: {best} is best"}
PANELS = {"rmse": "RMSE in stars, lower is better", "ndcg": "NDCG@10 of lists, higher is better"}
NEW_USERS = {
    "films alone": "nothing of the user: mean and biases of the films",
    "folded in": "`fold_in`",
    "fitted anew": "a new fit",
}


def of_baseline(row: dict[str, Any], cost: str) -> str:
    found = [value for name, value in row.items() if name.startswith(f"{cost} of")]
    return f"{found[0]:.1f}" if found else ""


def errors() -> str:
    """Write the errors of the stars, and what a fit costs."""
    rows = []
    for method, row in result("recommenders")["summary"].items():
        if "rmse" in row["u1"]:
            stars = [f"{row[group]['rmse']:.4f}" if group in row else "" for group in GROUPS]
            rows.append([f"`{method}`" if "(" in method else method, *stars, *(of_baseline(row, c) for c in COSTS)])
    header = ["RMSE", "u1", "u1 to u5", "random five folds", *(f"{name} of the first row's" for name in COSTS.values())]
    return markdown(header, rows)


def rankings() -> str:
    """Write what the ten best films of each user are worth, over u1 to u5."""
    rows = []
    for method, row in result("recommenders")["summary"].items():
        scores = [f"{row['u1 to u5'][name]:.3f}" for name in ("ndcg", "recall", "map")]
        rows.append([f"`{method}`" if "(" in method else method, *scores])
    return markdown(["u1 to u5", "NDCG@10", "recall@10", "MAP@10"], rows)


def imputers() -> str:
    """Write the errors of imputed tables."""
    table = result("imputation")["table"]
    methods = list(next(iter(table.values())))
    rows = [[name, *(interval(row[method]) for method in methods)] for name, row in table.items()]
    return markdown(["error, in deviations of the columns", *(f"`{method}`" for method in methods)], rows)


def new_users() -> str:
    """Write the errors of the other half of the ratings of new users."""
    found = result("imputation")["new_users"]
    rows = [[label, interval(found[name])] for name, label in NEW_USERS.items()]
    return markdown(["94 new users of MovieLens-100K, half of their ratings given", "RMSE of the other half"], rows)


def draw(path: Path) -> None:
    """Draw the error of the stars and the worth of the lists of every method: a point a fold, u1 to u5."""
    runs = [run for run in result("recommenders")["runs"] if run["split"].startswith("u")]
    with figure(path, columns=2, size=(5.4, 3.4)) as panels:
        for axes, (score, label) in zip(panels, PANELS.items(), strict=True):
            values: dict[str, list[float]] = {}
            for run in runs:
                if score in run:
                    values.setdefault(run["method"], []).append(run[score])
            ordered = sorted(values, key=lambda method: fmean(values[method]), reverse=score == "rmse")
            for place, method in enumerate(ordered):
                color = OURS if method.startswith("MatrixCompletion") else OTHERS
                axes.plot(values[method], [place] * len(values[method]), "o", color=color, markersize=4, alpha=0.7)
            axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
            axes.set_xlabel(label)
            axes.set_title(TITLES[score].format(best=ordered[-1]), loc="right", fontsize=10.5)
            axes.grid(axis="x", alpha=0.3)


FIGURES: Figures = {"recommenders.svg": draw}


def fits() -> str:
    """Write time and memory of fits by the number of entries."""
    rows = [
        [f"{run['entries']:,}", f"{run['seconds']:.0f} s", f"{run['peak_resident_bytes'] / 2**30:.1f} GiB"]
        for run in result("completion_fit")["runs"]
    ]
    return markdown(["entries of a 100,000 x 100,000 matrix", "`fit`, 100 epochs", "peak of the process"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "recommenders": errors,
    "ranked lists": rankings,
    "imputers": imputers,
    "new users": new_users,
    "fits": fits,
}
