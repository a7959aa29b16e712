"""Texts and names that an export has spoiled: what shows it is told, and nothing else is."""

from __future__ import annotations

import json
import warnings

import openpyxl
import pandas as pd
import pytest

from tests.training.reading.reading import columns, saved, wanted
from training.reading.kinds import Kind, class_name, text, written
from training.reading.lists import captions, words

KINDS: dict[str, Kind] = {"text": text, "class": class_name, "name": written}
FAILED, ENCODED, ROUNDED = "a spreadsheet shows of a formula", "a wrong encoding", "have been rounded"


def told(path, kind: Kind, *values: str) -> list[str]:
    saved(path, "\n".join(json.dumps({"a": one}) for one in values))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        columns(path, wanted(a=kind))
    return [str(one.message).replace(f"{path.parent}/", "") for one in caught]


@pytest.mark.parametrize(
    ("value", "kinds", "sign"),
    [
        ("#NAME?", ("text", "class", "name"), FAILED),
        (" #REF! ", ("text", "class", "name"), FAILED),
        ("#NAME? is a question", (), ""),
        ("#metoo!", (), ""),
        *((one.encode().decode("cp1252"), ("text", "class", "name"), ENCODED) for one in ("it\u2019s", "café", "日")),
        ("\u201d".encode().decode("latin-1"), ("text", "class", "name"), ENCODED),
        ("it\u2019s".encode("cp1252").decode("latin-1"), ("text", "class", "name"), ENCODED),
        ("\u041f\u0440\u0438\u0432\u0435\u0442".encode().decode("cp1251"), ("text", "class", "name"), ENCODED),
        *((one, (), "") for one in ("Привет…", "«Всё» – ПРИЁМ", "Тёма", "нет№1", "a\u0085b")),
        ("lost \ufffd", ("text", "class", "name"), ENCODED),
        *((one, (), "") for one in ("café", "“été” – à «", "É “x”", "ÀÉÖ €", "日本 ã€", "señor")),
        ("1.23457E+11", ("class", "name"), ROUNDED),
        ("1E+11", ("class", "name"), ROUNDED),
        ("1e5", (), ""),
        ("E+11", (), ""),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_signs_of_a_spoiled_export_are_told(kind, value, kinds, sign, tmp_path) -> None:
    found = told(tmp_path / "data.jsonl", KINDS[kind], "fine", value)
    assert len(found) == (kind in kinds)
    assert not found or sign in found[0] and "in line 2 of data.jsonl; " in found[0]


@pytest.mark.parametrize("kind", [words, captions])
def test_captions_and_words_are_texts_too(kind, tmp_path) -> None:
    (found,) = told(tmp_path / "data.jsonl", kind, "fine", "caf\u00c3\u00a9")
    assert found.startswith("1 of 2 entries of the column 'a' of data.jsonl hold characters that came out of a wrong")
    assert not told(tmp_path / "data.jsonl", kind, "['fine', 'a']", "['b', 'c']")


def test_numbers_that_have_more_digits_than_they_can_hold_are_told(tmp_path) -> None:
    """An id of nineteen digits, which pandas keeps as a real number beside gaps, and Excel always."""
    ids = [1234567890123456789, 1234567890123456788]
    pd.DataFrame({"a": [float(one) for one in ids]}).to_parquet(tmp_path / "data.parquet")
    book = openpyxl.Workbook()
    for value in ("a", *map(float, ids)):
        book.active.append([value])
    book.save(tmp_path / "data.xlsx")
    for name, left in (("data.parquet", "1.2345678901234568e+18"), ("data.xlsx", "1.234567890123457e+18")):
        with pytest.warns(UserWarning, match="2 of 2 entries .* are numbers that have been rounded, "):
            assert set(columns(tmp_path / name, wanted(a=written))["a"]) == {left}
    pd.DataFrame({"a": ids}).to_parquet(tmp_path / "data.parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert columns(tmp_path / "data.parquet", wanted(a=written))["a"] == list(map(str, ids))


def test_they_are_counted_with_a_remedy(tmp_path) -> None:
    assert told(tmp_path / "data.jsonl", written, "9", "1.2E+11", "1.3E+11") == [
        "2 of 3 entries of the column 'a' of data.jsonl are numbers that have been rounded, so that several may be "
        "one now, such as '1.2E+11' in line 2 of data.jsonl; export the column as texts"
    ]


def test_windows_that_is_read_as_latin_1_is_told(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", "a\nit\u2019s\n".encode("cp1252"))
    with pytest.warns(UserWarning, match="or pass another --encoding, such as cp1252 for latin-1"):
        columns(path, wanted(a=text), encoding="latin-1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert columns(path, wanted(a=text), encoding="cp1252")["a"] == ["it\u2019s"]
