"""Drawing figures: what draws each, by the name of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

Figures = Mapping[str, Callable[[Path], None]]


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Draw each figure into its file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw_one in figures.items():
        draw_one(folder / name)
    return [folder / name for name in figures]
