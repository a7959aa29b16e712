"""Precision, recall and F1 of entities, as `seqeval` and the CoNLL tasks score them."""

from __future__ import annotations

from collections.abc import Sequence

ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall")
_MARKS = ("B", "S", "U", "I", "M", "E", "L")
_KNOWN = {"U": "S", "L": "E", "M": "I"}  # marks that `seqeval` reads only by other letters


def are_entities(names: Sequence[str]) -> bool:
    """Tell whether tags say where an entity begins or continues: B-PER, I-PER (or S, U, M, E, L) and O.

    >>> are_entities(["B-PER", "O"]), are_entities(["NOUN", "O"])
    (True, False)
    """
    return any(name != "O" for name in names) and all(
        name == "O" or (name[1:2] == "-" and name[0] in _MARKS) for name in names
    )


def score_entities(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and F1 over the entities of all rows.

    One counts if its kind and all its words are right. It also begins where its kind changes, and after one of the
    marks E, L, S and U, as `conlleval` has it.

    >>> score_entities([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])["entity_precision"]
    0.5
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    right, found = ([[_known(tag) for tag in row] for row in rows] for rows in (references, predictions))
    precision, recall, f1, _ = precision_recall_fscore_support(right, found, average="micro", zero_division=0)
    return {"entity_f1": float(f1), "entity_precision": float(precision), "entity_recall": float(recall)}


def _known(tag: str) -> str:
    return _KNOWN[tag[0]] + tag[1:] if tag[1:2] == "-" and tag[0] in _KNOWN else tag
