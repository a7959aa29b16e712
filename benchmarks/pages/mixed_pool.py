"""The table of the mixed pool in `docs/modality.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.markdown import interval, markdown
from benchmarks.result_files import result

COLUMNS = {
    "ndcg@10": "NDCG@10",
    "recall@10 of images": "recall@10, answer an image",
    "recall@10 of texts": "recall@10, answer a text",
    "share of texts": "texts among the first ten",
    "gap": "gap",
}


def alignments() -> str:
    """Write what a search by text finds in a pool of images and texts, before and after every alignment."""
    rows = [
        [start, alignment, *(interval(cells[column], digits=2) for column in COLUMNS)]
        for start, found in result("mixed_pool")["starts"].items()
        for alignment, cells in found.items()
    ]
    return markdown(["temperature", "alignment", *COLUMNS.values()], rows)


TABLES: Mapping[str, Callable[[], str]] = {"mixed pool": alignments}
