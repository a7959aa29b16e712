"""The tables of `benchmarks/README.md` on the modality gap, made from `results/modality_gap.json` alone.

python benchmarks/modality_gap_table.py            # print them
python benchmarks/modality_gap_table.py --write    # put them between the markers in benchmarks/README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from modality_gap_methods import BASELINE, METHODS

FOLDER = Path(__file__).resolve().parent
MARKERS = {name: (f"<!-- {name}: begin -->", f"<!-- {name}: end -->") for name in ("frozen", "adapted")}
RECALLS = ("x_to_y_recall@1", "y_to_x_recall@1", "x_to_y_recall@5", "y_to_x_recall@5")
COLUMNS = (
    "method", "rate", "gap, new vendor", "gap, known vendors, beyond sampling", "uniformity", "image to text R@1",
    "text to image R@1", "image to text R@5", "text to image R@5", "R@1 against the baseline, points",
    "the same, training concepts",
)  # fmt: skip


def results() -> dict[str, Any]:
    return json.loads((FOLDER / "results" / "modality_gap.json").read_text(encoding="utf8"))


def interval(cell: dict[str, float], factor: float = 1.0, digits: int = 3, sign: str = "") -> str:
    mean, low, high = (format(factor * cell[key], f"{sign}.{digits}f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def difference(row: dict[str, Any], part: str) -> str:
    return interval(row[part]["recall@1"][f"minus {BASELINE}"], 100, 1, "+") if part in row else ""


def table(measured: dict[str, Any], rates: dict[str, float]) -> str:
    """One row for each method, in the order of the settings; intervals of 95 % over the seeds."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, row in measured.items():
        test = row["test"]
        known = interval(row["validation"]["gap_beyond_sampling"]) if "validation" in row else ""
        cells = [
            METHODS[name].label if name in METHODS else name,
            format(rates[name], "g") if name in rates else "",
            interval(test["gap"]),
            known,
            interval(test["uniformity"]),
            *(interval(test[recall], 100, 1) for recall in RECALLS),
            *(difference(row, part) for part in ("test", "seen")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """`text` with the tables between their markers replaced."""
    measured = results()
    for name, (begin, end) in MARKERS.items():
        head, rest = text.split(begin)
        shown = table(measured[name], measured["chosen_learning_rates"])
        text = f"{head}{begin}\n{shown}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update benchmarks/README.md")
    if parser.parse_args().write:
        readme = FOLDER / "README.md"
        readme.write_text(with_tables(readme.read_text(encoding="utf8")), encoding="utf8")
    else:
        measured = results()
        for name in MARKERS:
            print(f"{name}\n{table(measured[name], measured['chosen_learning_rates'])}\n")


if __name__ == "__main__":
    main()
