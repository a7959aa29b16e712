"""The tables of `benchmarks/README.md`."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result
from benchmarks.studies.modality_gap.methods import BASELINE, METHODS

RECALLS = ("x_to_y_recall@1", "y_to_x_recall@1", "x_to_y_recall@5", "y_to_x_recall@5")
COLUMNS = (
    "method", "rate", "gap, new vendor", "gap, known vendors, beyond sampling", "uniformity", "image to text R@1",
    "text to image R@1", "image to text R@5", "text to image R@5", "R@1 against the baseline, points",
    "the same, training concepts",
)  # fmt: skip


def recovery_steps() -> str:
    """Write the steps until recovery of the wide network and of its compression; medians over the seeds."""
    runs = result("completion_steps")["runs"]
    cells: dict[tuple[float, Any], list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault((run["noise"], run["rank_factor"]), []).append(run)
    rows = []
    for (noise, factor), members in cells.items():
        name = "wide" if factor is None else f"compressed, {factor} x the true rank"
        against = {run["seed"]: run["steps"] for run in cells[noise, None]}
        ratios = [run["steps"] / against[run["seed"]] for run in members]
        errors = [run["recovery_error"] for run in members]
        rows.append(
            [
                f"{noise:g}", name, f"{min(r['steps'] for r in members)} to {max(r['steps'] for r in members)}",
                f"{min(ratios):.2f} to {max(ratios):.2f}", f"{min(errors):.1e} to {max(errors):.1e}",
                f"{median(run['cpu_seconds'] for run in members):.1f}",
            ]
        )  # fmt: skip
    return markdown(["noise", "factorization", "steps", "of the wide one's", "recovery error", "CPU s"], rows)


def recovery_errors() -> str:
    """Write the relative error on unseen entries: median and worst over the seeds."""
    cells: dict[tuple[float, int, float], dict[str, dict[str, Any]]] = {}
    for row in result("completion_recovery")["table"]:
        key = (row["observed"], row["rank_factor"], row["noise"])
        cells.setdefault(key, {})[row["method"]] = row
    names = {"compressed": "compressed", "depth_two": "depth 2", "als": "ALS (cmfrec)", "soft_impute": "soft-impute"}
    rows = []
    for (observed, factor, noise), by_method in cells.items():
        best = min(by_method.values(), key=lambda row: row["median_relative_error"])
        row = [f"{100 * observed:.0f} %", f"{factor} x", f"{noise:g}"]
        for method in names:
            cell = by_method[method]
            text = f"{cell['median_relative_error']:.1e} ({cell['worst_relative_error']:.1e})"
            row.append(f"**{text}**" if cell is best else text)
        rows.append([*row, " / ".join(f"{by_method[name]['median_cpu_seconds']:.1f}" for name in names)])
    header = ["observed", "rank given", "noise", *names.values(), "CPU s, in this order"]
    return markdown(header, rows)


def ratings() -> str:
    """Write the test error of real ratings over the splits, and the cost of a fit."""
    rows = []
    for name, label in (("movielens", "MovieLens-100K"), ("insteval", "InstEval")):
        for method, row in result(name)["summary"].items():
            mean, half = row["test_rmse"]
            cost = [f"{row['fit_cpu_seconds']:.2f}", f"{row['tuning_cpu_seconds']:.0f}"]
            rows.append([label, method, f"{mean:.4f} +- {half:.4f}", *cost])
    return markdown(["ratings", "method", "test RMSE", "CPU s of a fit", "CPU s of the tuning"], rows)


def neural_collapse(name: str) -> str:
    """Write the steps until the baseline's last NC1, and the accuracy, with paired differences."""
    measured = result(name)
    rows = []
    for method, row in measured["table"].items():
        arrived = [ratio for ratio in row["steps_to_target_over_baseline"] if ratio is not None]
        accuracy = row["test_accuracy"]
        rows.append(
            [
                method, f"{measured['chosen_learning_rates'][method]:g}", f"{len(arrived)} of {len(row['seeds'])}",
                interval(row["mean_ratio"], digits=2), interval(row["nc1"]), interval(accuracy, 100, 1),
                interval(accuracy["difference"], 100, 1, "+"),
            ]
        )  # fmt: skip
    header = ["method", "rate", "seeds that reach the baseline's last NC1", "after this share of its steps", "last NC1",
              "test accuracy, %", "paired difference"]  # fmt: skip
    return markdown(header, rows)


def difference(row: dict[str, Any], part: str) -> str:
    return interval(row[part]["recall@1"][f"minus {BASELINE}"], 100, 1, "+") if part in row else ""


def modality_gap(part: str) -> str:
    """Write one row for each method of a part, "frozen" or "adapted", in the order of the settings; 95 % intervals."""
    measured = result("modality_gap")
    rates, rows = measured["chosen_learning_rates"], []
    for name, row in measured[part].items():
        test = row["test"]
        rows.append(
            [
                METHODS[name].label if name in METHODS else name,
                format(rates[name], "g") if name in rates else "",
                interval(test["gap"]),
                interval(row["validation"]["gap_beyond_sampling"]) if "validation" in row else "",
                interval(test["uniformity"]),
                *(interval(test[recall], 100, 1) for recall in RECALLS),
                *(difference(row, split) for split in ("test", "seen")),
            ]
        )
    return markdown(list(COLUMNS), rows)


TABLES: dict[str, Callable[[], str]] = {
    "recovery steps": recovery_steps,
    "recovery errors": recovery_errors,
    "ratings": ratings,
    "neural collapse, images": lambda: neural_collapse("neural_collapse_images"),
    "neural collapse, text": lambda: neural_collapse("neural_collapse_text"),
    "frozen": lambda: modality_gap("frozen"),
    "adapted": lambda: modality_gap("adapted"),
}
