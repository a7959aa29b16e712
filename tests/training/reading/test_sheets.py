"""Sheets of Excel: what they hide, what was never calculated, and what they say of their size."""

from __future__ import annotations

import zipfile
from pathlib import Path

import openpyxl
import pytest

from tests.training.reading.reading import columns, refusal, wanted
from training.reading.kinds import text
from training.reading.lists import labels

LISTED = wanted(text=text, label=labels)


def sheet(path: Path, *rows: list[object]) -> openpyxl.worksheet.worksheet.Worksheet:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return book


def edited(path: Path, old: str, new: str) -> Path:
    """The same workbook, with other XML in its sheet."""
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    held = parts["xl/worksheets/sheet1.xml"].decode()
    assert old in held
    parts["xl/worksheets/sheet1.xml"] = held.replace(old, new).encode()
    with zipfile.ZipFile(path, "w") as book:
        for name, part in parts.items():
            book.writestr(name, part)
    return path


def test_a_wrong_size_that_a_sheet_states_loses_no_rows(tmp_path) -> None:
    sheet(path := tmp_path / "data.xlsx", ["text", "label"], ["a", "x"], ["b", "y"], ["c", "x"])
    edited(path, 'ref="A1:B4"', 'ref="A1:B2"')
    assert columns(path) == {"text": ["a", "b", "c"], "label": ["x", "y", "x"]}


def test_rows_that_a_filter_hides_are_read_and_told(tmp_path) -> None:
    book = sheet(path := tmp_path / "data.xlsx", ["text", "label"], ["a", "x"], ["b", "y"], ["c", "x"])
    for row in (3, 9):
        book.active.row_dimensions[row].hidden = True
    book.save(path)
    told = "1 of 3 rows of .*data.xlsx are hidden, as by a filter, the first is row 3, and are read like the others; "
    with pytest.warns(UserWarning, match=told + "delete them if they are not meant"):
        assert columns(path)["text"] == ["a", "b", "c"]


def test_formulas_that_were_never_calculated_are_refused(tmp_path) -> None:
    sheet(path := tmp_path / "data.xlsx", ["text", "label", "id"], ["a", "x", 1], ["b", '=A2&"y"', "=C2+1"])
    told = (
        "row 3 of data.xlsx holds a formula without a result in the column 'label'; open the file in Excel or "
        "LibreOffice and save it, or write values in the place of formulas"
    )
    assert refusal(path) == refusal(path, LISTED) == told
    assert columns(path, wanted(text=text))["text"] == ["a", "b"], "one where nobody looks is none"
    sheet(path, ["text", "label"], ["a", "x"], ["=A2", "=B2"])
    assert "row 3 of data.xlsx holds a formula without a result in the column 'text'" in refusal(path)


def test_results_of_formulas_are_read_and_an_empty_one_is_nothing(tmp_path) -> None:
    rows = ["text", "label"], ["a", "x"], ["b", "=B2"], ["=B9", "=B9"]
    edited(sheet_at(tmp_path / "data.xlsx", *rows), "<f>B2</f><v></v>", "<f>B2</f><v>7</v>")
    assert columns(tmp_path / "data.xlsx") == {"text": ["a", "b"], "label": ["x", "7"]}


def sheet_at(path: Path, *rows: list[object]) -> Path:
    sheet(path, *rows)
    return path


def test_cells_that_are_merged_are_refused_where_they_are_needed(tmp_path) -> None:
    book = sheet(path := tmp_path / "data.xlsx", ["text", "label", "id"], ["a", "x", 1], ["b", None, 2])
    book.active.merge_cells("B2:B3")
    book.save(path)
    told = (
        "row 3 of data.xlsx is merged with other cells (B2:B3) in the column 'label'; undo that, and write the value "
        "in each row"
    )
    assert refusal(path) == refusal(path, LISTED) == told
    assert columns(path, wanted(text=text))["text"] == ["a", "b"]
