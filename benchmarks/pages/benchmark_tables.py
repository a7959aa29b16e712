"""The tables of `benchmarks/README.md`, made from `benchmarks/results` alone.

python benchmarks/tables.py            # print them
python benchmarks/tables.py --write    # put them between their markers
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

from markdown_tables import FOLDER, filled, interval, markdown, result
from modality_gap_table import modality_gap


def recovery_steps() -> str:
    """Steps until recovery of the wide network and of its compression; medians over the seeds."""
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
    """Relative error on unseen entries: median and worst over the seeds."""
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
    """Real ratings: test error over the splits, and what a fit costs."""
    rows = []
    for name, label in (("movielens", "MovieLens-100K"), ("insteval", "InstEval")):
        for method, row in result(name)["summary"].items():
            mean, half = row["test_rmse"]
            cost = [f"{row['fit_cpu_seconds']:.2f}", f"{row['tuning_cpu_seconds']:.0f}"]
            rows.append([label, method, f"{mean:.4f} +- {half:.4f}", *cost])
    return markdown(["ratings", "method", "test RMSE", "CPU s of a fit", "CPU s of the tuning"], rows)


def neural_collapse(name: str) -> str:
    """Steps until the baseline's last NC1, and accuracy, with paired differences."""
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


TABLES: dict[str, Callable[[], str]] = {
    "recovery steps": recovery_steps,
    "recovery errors": recovery_errors,
    "ratings": ratings,
    "neural collapse, images": lambda: neural_collapse("neural_collapse_images"),
    "neural collapse, text": lambda: neural_collapse("neural_collapse_text"),
    "frozen": lambda: modality_gap("frozen"),
    "adapted": lambda: modality_gap("adapted"),
}


def with_tables(text: str) -> str:
    """`text` with every table between its markers replaced."""
    return filled(text, TABLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update benchmarks/README.md")
    if parser.parse_args().write:
        readme = FOLDER / "README.md"
        readme.write_text(with_tables(readme.read_text(encoding="utf8")), encoding="utf8")
    else:
        for name, make in TABLES.items():
            print(f"{name}\n{make()}\n")


if __name__ == "__main__":
    main()
