"""The figures of this project, as PNG or SVG files, without a display."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dmf.files import complete_file

__all__ = ["curve", "figure"]


@contextmanager
def figure(
    path: str | os.PathLike[str],
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (5.0, 4.0),
    dpi: int = 150,
    **settings: Any,
) -> Iterator[list[Any]]:
    """Give the axes of a new figure, row by row, and save it when the block ends without an error.

    Args:
        path: the .png or .svg file, complete or not there; its folder must exist.
        rows: rows of axes.
        columns: columns of axes.
        size: width and height in inches of one of the axes.
        dpi: dots per inch.
        **settings: more of `matplotlib.pyplot.subplots`, such as `sharey`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with figure(f"{folder}/line.png", columns=2) as (left, right):
    ...         curve(left, [(0, 1.0), (1, 0.5)], label="loss")
    ...     os.listdir(folder)
    ['line.png']
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = (size[0] * columns, size[1] * rows)
    drawn, axes = plt.subplots(rows, columns, figsize=whole, layout="constrained", squeeze=False, **settings)
    try:
        yield list(axes.flat)
        with complete_file(path) as partial, plt.rc_context({"svg.hashsalt": "deep-lora"}):
            changing = "Date" if partial.suffix == ".svg" else "Software"  # without it, the same bytes each time
            drawn.savefig(partial, dpi=dpi, metadata={changing: None})
    finally:
        plt.close(drawn)


def curve(place: Any, points: Iterable[tuple[float, float]], **settings: Any) -> None:
    """Draw points (x, y) as a line, with a mark on each if they are few; nothing if there are none."""
    known = list(points)
    if known:
        place.plot(*zip(*known, strict=True), marker="." if len(known) < 30 else None, **settings)
