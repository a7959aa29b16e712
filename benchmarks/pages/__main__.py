"""Make the tables of the README and of the pages, and the figures of `docs`, from `benchmarks/results`.

python -m benchmarks.pages            # print the tables
python -m benchmarks.pages --write    # put them between their markers, and draw docs/images
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.markdown import filled
from benchmarks.pages import (
    benchmark_tables,
    command_line,
    few_shot_choices,
    few_shot_figures,
    few_shot_tables,
    measured_tables,
    method_figures,
    mixed_pool,
    plain_rates,
    readme_tables,
    recommenders,
)
from benchmarks.pages.drawing import Figures, draw
from benchmarks.result_files import FOLDER, ROOT

DOCS = ROOT / "docs"
PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    ROOT / "README.md": readme_tables.TABLES,
    FOLDER / "README.md": {**benchmark_tables.TABLES, **measured_tables.TABLES},
    DOCS / "migration.md": plain_rates.TABLES,
    DOCS / "dmf.md": recommenders.TABLES,
    DOCS / "modality.md": mixed_pool.TABLES,
    DOCS / "chat.md": command_line.CHAT,
    DOCS / "training.md": command_line.COMPARED,
    DOCS / "few_shot.md": few_shot_tables.TABLES,
    DOCS / "few_shot_method.md": {**few_shot_tables.TABLES, **few_shot_choices.TABLES},
}
FIGURES: Figures = {**few_shot_figures.FIGURES, **method_figures.FIGURES, **recommenders.FIGURES}


def with_tables(page: Path, text: str) -> str:
    """Replace every table that the page has markers for."""
    return filled(text, {name: make for name, make in PAGES[page].items() if f"<!-- {name}: begin -->" in text})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="update the pages and docs/images")
    if parser.parse_args().write:
        for page in PAGES:
            page.write_text(with_tables(page, page.read_text(encoding="utf8")), encoding="utf8")
        print(*PAGES, *draw(FIGURES, DOCS / "images"), sep="\n")
    else:
        for name, make in {name: make for tables in PAGES.values() for name, make in tables.items()}.items():
            print(f"{name}\n{make()}\n")


if __name__ == "__main__":
    main()
