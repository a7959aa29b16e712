"""Precision, recall and F1 of entities, as the CoNLL tasks score them: one counts if kind and words are right.

Source: Tjong Kim Sang and De Meulder, CoNLL 2003; the same definition as `conlleval`, and as `seqeval` by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")
_BEGINS, _INSIDE = ("B", "S", "U"), ("I", "M", "E", "L")
_ENDS = ("E", "L", "S", "U")


def are_entities(names: Sequence[str]) -> bool:
    """Tell whether tags say where an entity begins or goes on: B-PER, I-PER (or S, U, M, E, L) and O.

    >>> are_entities(["B-PER", "O"]), are_entities(["NOUN", "O"])
    (True, False)
    """
    return any(name != "O" for name in names) and all(
        name == "O" or (name[1:2] == "-" and name[0] in _BEGINS + _INSIDE) for name in names
    )


def score_entities(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and F1 over the entities of all rows.

    >>> score_entities([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])["entity_precision"]
    0.5
    """
    found, right = ({(row, *entity) for row, tags in enumerate(rows) for entity in _entities(tags)}
                    for rows in (predictions, references))  # fmt: skip
    hits = len(found & right)
    precision, recall = hits / max(len(found), 1), hits / max(len(right), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"entity_f1": f1, "entity_precision": precision, "entity_recall": recall}


def _entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield kind, first and last word of each entity; one also begins where its kind changes."""
    start, kind, before = -1, "", "O"
    for place, tag in enumerate([*tags, "O"]):
        mark, own = tag[:1], tag[2:]
        if start >= 0 and (tag == "O" or own != kind or mark in _BEGINS or before in _ENDS):
            yield kind, start, place - 1
            start = -1
        if start < 0 and tag != "O":
            start, kind = place, own
        before = mark
