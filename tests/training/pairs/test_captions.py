"""Several captions of a picture: they are not contrasted with each other, and are held out together."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from datasets import Dataset, Image

from tests.training import tiny
from training.data import load_splits
from training.errors import UsageError
from training.pairs.arguments import MethodArguments, PairDataArguments
from training.pairs.captions import one_caption_a_row, recall_of_entries
from training.pairs.task import first_entries, numbers_of, pair_columns, pair_task
from training.samples import held_out_groups, held_out_rows


def test_pairs_show_the_same_if_they_are_linked_by_entries_in_common() -> None:
    """The definition: the transitive closure of having a picture or a caption in common."""
    draw = np.random.default_rng(0)
    pictures, captions = draw.integers(0, 24, 40), draw.integers(0, 30, 40)
    linked = (pictures[:, None] == pictures) | (captions[:, None] == captions)
    for _ in range(6):  # chains of up to 64 links
        linked = linked @ linked
    assert 1 < len({tuple(row) for row in linked}) < 24, "some are linked"
    data = Dataset.from_dict({"picture": list(map(str, pictures)), "text": list(map(str, captions))})
    numbers = numbers_of(data, ["picture", "text"])
    assert ((numbers[:, None] == numbers) == linked).all()
    by_caption = numbers_of(data, ["text"])
    assert ((by_caption[:, None] == by_caption) == (captions[:, None] == captions)).all()


def test_stored_pictures_are_told_apart_by_their_bytes_and_others_by_their_paths() -> None:
    stored = [{"bytes": b"1", "path": "a"}, {"bytes": b"2", "path": "a"}, {"bytes": b"1", "path": None}]
    files = [{"bytes": None, "path": path} for path in "aba"]
    data = Dataset.from_dict({"image": [*stored, *files]}).cast_column("image", Image(decode=False))
    numbers = numbers_of(data, ["image"])
    assert numbers[0] == numbers[2] and numbers[3] == numbers[5] and len(set(numbers)) == 4


def test_whole_groups_are_held_out_and_without_groups_the_same_rows() -> None:
    for seed in range(5):
        groups = np.random.default_rng(seed).integers(0, 12, 40).tolist()
        chosen = set(held_out_groups(groups, 6, seed).tolist())
        own = [group for row, group in enumerate(groups) if row in chosen]
        assert 6 <= len(own) < 6 + max(map(groups.count, groups))
        assert not set(own) & {group for row, group in enumerate(groups) if row not in chosen}
        alone = held_out_groups(range(40), 6, seed)
        assert alone.tolist() == held_out_rows([()] * 40, 6, seed).tolist()
    assert held_out_groups([7, 7, 7], 1, 0).tolist() == []


def loaded(path, **options) -> dict[str, Dataset]:
    data = PairDataArguments(dataset=str(path), validation_fraction=0.25, **options)
    splits = load_splits(data, pair_columns(data), groups=lambda split: first_entries(split, data))
    return one_caption_a_row(splits, data)


def test_lists_and_columns_of_captions_are_a_row_for_each_caption(tmp_path) -> None:
    names = [line.split(",")[0] for line in tiny.save_pictures(tmp_path, rows=8).read_text().splitlines()[1:]]
    texts = [[f"a film, {row}", f"[{row}] quite good", f"one more {row}"][: 1 + row % 3] for row in range(8)]
    rows = [{"image": name, "text": own} for name, own in zip(names, texts, strict=True)]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    with open(tmp_path / "written.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "text"), *((row["image"], row["text"]) for row in rows)])
    with open(tmp_path / "columns.csv", "w", newline="") as file:
        table = [(row["image"], *(row["text"] + ["", ""])[:3][::1]) for row in rows]
        csv.writer(file).writerows([("image", "a", "b", "c"), *table])
    columns = {"columns.csv": {"text_columns": ["a", "b", "c"]}}
    for name in ("lists.jsonl", "lists.parquet", "written.csv", "columns.csv"):
        splits = loaded(tmp_path / name, **columns.get(name, {}))
        side = columns.get(name, {"text_columns": ["text"]})["text_columns"][0]
        found = {}
        for split in splits.values():
            for row in split:
                found.setdefault(os.path.basename(row["image"]["path"]), []).append(row[side])
        assert found == {os.path.basename(name): own for name, own in zip(names, texts, strict=True)}
        assert sum(map(len, splits.values())) == sum(map(len, texts))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ([], r"column 'text' holds \[\] in line 2 of .*; it must be a caption, or a list of captions, none of them"),
        (["a", " "], r"holds \['a', ' '\] in line 2 of .*; it holds an empty caption; leave that out"),
        ("a\0", "a text cannot hold NUL characters"),
        ([1], "it must be a caption"),
        ("['a' ", "it looks like a list, but is not one, or others are not"),
        ("('a', 'b')", "it looks like a list, but is not one, or others are not"),
        ("", "column 'text' of .* is empty in 1 of 4 rows, the first is line 2"),
    ],
)
def test_what_is_no_caption_is_named(text, told, tmp_path) -> None:
    names = [line.split(",")[0] for line in tiny.save_pictures(tmp_path, rows=4).read_text().splitlines()[1:]]
    rows = [{"image": name, "text": text if row == 1 else "a film"} for row, name in enumerate(names)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match=told):
        loaded(tmp_path / "data.jsonl")
    (tmp_path / "data.csv").write_text(
        "image,a,b\n" + "\n".join(f"{name},,{'x' * row}" for row, name in enumerate(names))
    )
    with pytest.raises(UsageError, match=r"1 of . rows of the \w+ data have no caption in a, b, the first is .*-0.png"):
        loaded(tmp_path / "data.csv", text_columns=["a", "b"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"text_columns": ["a"], "second_text_column": "b"}, "--text_columns has several captions of an image; leave"),
        ({"text_columns": ["a"], "text_column": "b"}, "--text_column and --text_columns exclude each other"),
        ({"text_columns": ["a", "b"], "label_column": "b"}, "--label_column b is one of --text_columns; name another"),
    ],
)
def test_columns_of_captions_that_contradict_others_are_refused(options, told) -> None:
    with pytest.raises(UsageError, match=told):
        PairDataArguments(**options)


@pytest.mark.parametrize("labels", [0, 4, 40])
def test_recall_is_its_definition_over_each_picture_and_each_caption_once(labels) -> None:
    """With 4 labels the same caption has several of them; with 40 mostly one."""
    draw = np.random.default_rng(labels)
    pictures, texts = draw.integers(0, 12, 40), draw.integers(0, 18, 40)
    shown = draw.integers(0, labels, 40) if labels else np.arange(40)
    x, y = draw.normal(size=(12, 4)), draw.normal(size=(18, 4))
    found = recall_of_entries(
        torch.as_tensor(x[pictures]), torch.as_tensor(y[texts]), np.stack([pictures, texts, shown], 1), (1, 5)
    )
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y)]
    for name, own, other, queries, pool, scores in (
        ("x_to_y", pictures, texts, set(pictures), sorted(set(texts)), unit[0] @ unit[1].T),
        ("y_to_x", texts, pictures, set(texts), sorted(set(pictures)), unit[1] @ unit[0].T),
    ):
        for k in (1, 5):
            hits = []
            for query in queries:
                nearest = sorted(pool, key=lambda entry, query=query, scores=scores: -scores[query, entry])[:k]
                right = {one for one, what in zip(other, shown, strict=True) if what in set(shown[own == query])}
                hits.append(bool(right & set(nearest)))
            assert found[f"{name}_recall@{k}"] == pytest.approx(np.mean(hits)), (name, k)
        assert found[f"{name}_pool"] == len(pool)


def test_captions_of_a_picture_stay_on_one_side(tmp_path) -> None:
    path = tiny.save_pictures(tmp_path, rows=8)
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([*lines, *(f"{line.split(',')[0]},another text {n}" for n, line in enumerate(lines[1:]))])
    )
    data = PairDataArguments(dataset=str(path), validation_fraction=0.25)

    def groups(split: Dataset) -> list[str]:
        return first_entries(split, data)

    splits = load_splits(data, pair_columns(data), groups=groups)
    sides = [set(groups(splits[name])) for name in ("train", "validation")]
    assert len(splits["validation"]) == 4 and [len(side) for side in sides] == [6, 2] and not sides[0] & sides[1]
    path.write_text("\n".join([lines[0], *(f"{lines[1].split(',')[0]},text {n}" for n in range(6))]))
    with pytest.raises(UsageError, match="all rows show the same, so none can be held out; pass more"):
        load_splits(data, pair_columns(data), groups=groups)


def test_pairs_that_all_show_the_same_have_nothing_to_contrast(tmp_path) -> None:
    pictures = [{"bytes": None, "path": path} for path in "abc"]
    split = Dataset.from_dict({"image": pictures, "text": ["a film", "a  film ", "a film"], "kind": ["x", "x", "x"]})
    for label, told in ((None, "linked by pictures and texts in common"), ("kind", "all have the same 'kind'")):
        task = pair_task(
            {"train": split, "validation": split},
            PairDataArguments(second_text_column="image", label_column=label),
            MethodArguments(), seed=0, batch=2,
        )  # fmt: skip
        with pytest.raises(
            UsageError,
            match=f"the 3 pairs of the train data all show the same thing .*{told}., so nothing can be contrasted",
        ):
            task.encode(task.splits, None)
