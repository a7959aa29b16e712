"""The tables and figures of `docs/evidence.md` and `docs/evidence_tables.md`, made from `benchmarks/results` alone.

python benchmarks/evidence_report.py            # print the tables
python benchmarks/evidence_report.py --write    # put them between their markers, and draw docs/images
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from evidence_bars import bars
from evidence_figures import draw_all
from evidence_leaving import LEAVING
from evidence_overview import OVERVIEWS
from evidence_tables import TABLES
from markdown_tables import filled

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = (DOCS / "evidence.md", DOCS / "evidence_tables.md")
ALL: Mapping[str, Callable[[], str]] = {"bars": bars, **OVERVIEWS, **TABLES, **LEAVING}


def with_tables(text: str) -> str:
    """`text` with every table that it has markers for replaced."""
    return filled(text, {name: make for name, make in ALL.items() if f"<!-- {name}: begin -->" in text})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update the pages and docs/images")
    if parser.parse_args().write:
        for page in PAGES:
            page.write_text(with_tables(page.read_text(encoding="utf8")), encoding="utf8")
        for path in [*PAGES, *draw_all(DOCS / "images")]:
            print(path)
    else:
        for name, make in ALL.items():
            print(f"{name}\n{make()}\n")


if __name__ == "__main__":
    main()
