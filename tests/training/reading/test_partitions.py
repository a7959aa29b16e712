"""Folders whose names are values, as Spark and Hive write them."""

from __future__ import annotations

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.reading.kinds import text


def test_values_that_only_folder_names_hold_are_named(tmp_path) -> None:
    for name in "ab":
        saved(tmp_path / f"label={name}" / "year=2020" / "part-0.csv", "text\nx\n")
    assert refusal(tmp_path).endswith(
        "; names of folders, such as label=a, are not read as columns: join the files with pandas or pyarrow, which do"
    )
    assert columns(tmp_path, wanted(text=text))["text"] == ["x", "x"]
