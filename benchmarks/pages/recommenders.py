"""The tables and the figure of `docs/dmf.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result
from training.results.figures import figure

COSTS = {"cpu_seconds": "CPU time", "peak_mib": "memory"}
OURS, OTHERS = "#1f77b4", "#9a9a9a"


def of_baseline(row: dict[str, Any], cost: str) -> str:
    found = [value for name, value in row.items() if name.startswith(f"{cost} of")]
    return f"{found[0]:.1f}" if found else ""


def errors() -> str:
    """Write the errors of the stars, and what a fit costs."""
    rows = []
    for method, row in result("recommenders")["summary"].items():
        if "rmse" in row["u1"]:
            stars = [f"{row[group]['rmse']:.4f}" for group in ("u1", "u1 to u5", "random folds")]
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
    rows = [[name, *(interval(dict(zip(("mean", "low", "high"), row[m], strict=True))) for m in methods)] for name, row in table.items()]
    return markdown(["error, in deviations of the columns", *(f"`{method}`" for method in methods)], rows)


def new_users() -> str:
    """Write the errors of the other half of the ratings of new users."""
    found = result("imputation")["new_users"]
    names = {"films alone": "nothing of the user: mean and biases of the films", "folded in": "`fold_in` of half of his ratings",
             "fitted anew": "a new fit with them"}  # fmt: skip
    cells = {name: interval(dict(zip(("mean", "low", "high"), row, strict=True))) for name, row in found.items()}
    return markdown(["94 new users, the other half of their ratings", "RMSE"], [[names[name], cells[name]] for name in names])


def draw(path: Path) -> None:
    """Draw the error of the stars and the worth of the lists of every method: a point a fold, u1 to u5."""
    runs = [run for run in result("recommenders")["runs"] if run["split"].startswith("u")]
    with figure(path, columns=2, size=(6.0, 3.4)) as panels:
        for axes, score, label in zip(panels, ("rmse", "ndcg"), ("RMSE of stars, lower is better", "NDCG@10 of lists, higher is better"), strict=True):
            methods = list(dict.fromkeys(run["method"] for run in runs if score in run))
            means = {m: sum(r[score] for r in runs if r["method"] == m) / sum(r["method"] == m for r in runs) for m in methods}
            ordered = sorted(methods, key=means.__getitem__, reverse=score == "rmse")
            for place, method in enumerate(ordered):
                values = [run[score] for run in runs if run["method"] == method]
                color = OURS if method.startswith("MatrixCompletion") else OTHERS
                axes.plot(values, [place] * len(values), "o", color=color, markersize=4, alpha=0.7)
            axes.set_yticks(range(len(ordered)), ordered, fontsize=8)
            axes.set_xlabel(label)
            axes.grid(axis="x", alpha=0.3)


TABLES: Mapping[str, Callable[[], str]] = {
    "recommenders": errors,
    "ranked lists": rankings,
    "imputers": imputers,
    "new users": new_users,
}
