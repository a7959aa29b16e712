"""Several captions of a picture: they are not contrasted with each other, and are held out together."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, Image

from tests.training import tiny
from training.data import load_splits
from training.errors import UsageError
from training.pairs.arguments import PairDataArguments
from training.pairs.task import first_entries, numbers_of, pair_columns
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
    with pytest.raises(UsageError, match="all rows show the same, so that none can be held out; pass more"):
        load_splits(data, pair_columns(data), groups=groups)
