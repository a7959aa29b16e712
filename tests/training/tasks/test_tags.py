"""Token classification: words without a tag count nowhere, and entities are scored as the CoNLL tasks do."""

from __future__ import annotations

import pytest
from datasets import Dataset

from training.errors import UsageError
from training.settings.data import TextDataArguments
from training.tasks.entities import are_entities, score_entities
from training.tasks.token_classification import row_tags, token_classification


def task(*rows, **options):
    data = Dataset.from_dict({"text": [["w"] * len(row) for row in rows], "tags": list(rows)})
    return token_classification({"train": data, "validation": data}, TextDataArguments(**options))


def test_words_without_a_tag_make_no_class() -> None:
    made = task(["NOUN", "-100", "VERB"], ["-100", "VERB"])
    assert made.label_names == ["NOUN", "VERB"] and made.main_metric == "accuracy"
    assert made.counts["train"] == {"NOUN": 1, "VERB": 2}
    assert row_tags("tags")(made.splits["train"]) == [["NOUN", "VERB"], ["VERB"]]


def test_words_that_tokenizers_drop_are_told() -> None:
    data = Dataset.from_dict({"text": [["w", "\u200b"], ["", "w"]], "tags": [["A", "B"], ["B", "A"]]})
    with pytest.warns(UserWarning, match="2 words of the train data have no visible character; most"):
        token_classification({"train": data}, TextDataArguments())


def test_words_in_the_place_of_tags_are_told() -> None:
    with pytest.warns(UserWarning, match="30 different tags in the column 'tags', 28 of which occur only once"):
        task([f"w{number}" for number in range(30)] + ["w0", "w1"])


def test_entities_are_the_main_metric_where_tags_say_where_they_begin() -> None:
    assert task(["B-LOC", "O"]).main_metric == "entity_f1"
    assert (
        are_entities(["O", "I-LOC", "S-PER"]) and not are_entities(["O"]) and not are_entities(["O", "B-LOC", "VERB"])
    )
    with pytest.raises(UsageError, match=r"entity_f1 needs tags such as B-NAME, I-NAME and O, but they are \['NOUN'"):
        task(["NOUN", "VERB"], metrics=["entity_f1"])


@pytest.mark.parametrize(
    ("found", "right", "precision", "recall"),
    [
        ("B-A I-A O B-B", "B-A I-A O O", 1 / 2, 1),
        ("B-A I-A I-A", "B-A I-A O", 0, 0),
        ("I-A I-A O", "B-A I-A O", 1, 1),
        ("B-A B-A", "B-A I-A", 0, 0),
        ("I-A I-B", "B-A B-B", 1, 1),
        ("S-A B-B E-B", "B-A B-B I-B", 1, 1),
        ("O O", "B-A O", 0, 0),
        ("E-A I-A", "B-A B-A", 1, 1),
    ],
)
def test_an_entity_counts_if_its_kind_and_all_its_words_are_right(found, right, precision, recall) -> None:
    scores = score_entities([found.split()], [right.split()])
    assert (scores["entity_precision"], scores["entity_recall"]) == (precision, recall)
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    assert scores["entity_f1"] == pytest.approx(f1)


def test_entities_end_with_their_row() -> None:
    assert score_entities([["O", "B-A"], ["I-A"]], [["O", "B-A"], ["O"]])["entity_precision"] == 0.5


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("U-ORG U-ORG O", "B-ORG B-ORG O"),
        ("B-PER L-PER U-PER O", "B-PER I-PER B-PER O"),
        ("B-PER I-PER L-PER B-PER L-PER", "B-PER I-PER I-PER B-PER I-PER"),
        ("S-PER B-PER M-PER E-PER B-PER E-PER", "B-PER B-PER I-PER I-PER B-PER I-PER"),
        ("B-PER M-PER O B-LOC M-LOC B-LOC", "B-PER I-PER O B-LOC I-LOC B-LOC"),
    ],
)
def test_entities_are_the_same_in_all_notations(tags: str, expected: str) -> None:
    """Those of one notation, as predictions, are all found, and no others, where the other one is right."""
    for right, found in ((tags, expected), (expected, tags)):
        scores = score_entities([found.split()], [right.split()])
        assert set(scores.values()) == {1.0}
