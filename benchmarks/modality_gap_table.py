"""Tables of the modality gap, one row for each method; `tables.py` puts them into `benchmarks/README.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from markdown_tables import interval, markdown, result
from modality_gap_methods import BASELINE, METHODS

RECALLS = ("x_to_y_recall@1", "y_to_x_recall@1", "x_to_y_recall@5", "y_to_x_recall@5")
COLUMNS = (
    "method", "rate", "gap, new vendor", "gap, known vendors, beyond sampling", "uniformity", "image to text R@1",
    "text to image R@1", "image to text R@5", "text to image R@5", "R@1 against the baseline, points",
    "the same, training concepts",
)  # fmt: skip


def difference(row: dict[str, Any], part: str) -> str:
    return interval(row[part]["recall@1"][f"minus {BASELINE}"], 100, 1, "+") if part in row else ""


def modality_gap(part: str) -> str:
    """One row for each method of a part, "frozen" or "adapted", in the order of the settings; intervals of 95 %."""
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
