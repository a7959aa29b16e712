"""Text files in any encoding, packed or not, or of another kind than their name says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from datetime import datetime

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.reading.reading import columns, refusal, saved, wanted
from training.errors import UsageError
from training.reading.kinds import text
from training.reading.sources import refuse_unused
from training.settings.data import FileArguments

CSV, JSON = "text,label\ncafé,pos\nb,neg\n", '{"text": "café", "label": "pos"}\n{"text": "b", "label": "neg"}\n'
READ = {"text": ["café", "b"], "label": ["pos", "neg"]}
FILES = [("data.csv", CSV), ("data.jsonl", JSON)]


@pytest.mark.parametrize(("name", "content"), FILES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(encoding, name, content, tmp_path) -> None:
    assert columns(saved(tmp_path / name, content.encode(encoding))) == READ


@pytest.mark.parametrize(("name", "content"), FILES)
def test_other_encodings_are_refused_until_they_are_named(name, content, tmp_path) -> None:
    path = saved(tmp_path / name, content.encode("cp1252"))
    line = content.split("\n").index(next(one for one in content.split("\n") if "é" in one)) + 1
    told = refusal(path)
    assert (
        told.startswith(f"line {line} of {name} is not UTF-8; pass its --encoding, such as cp1252 if ")
        and "café" in told
    )
    assert columns(path, encoding="cp1252") == READ
    saved(path, content.encode("utf-16-le"))
    assert "holds NUL characters, which no text has; if it is UTF-16 without a mark, pass --encoding" in refusal(path)
    assert columns(path, encoding="utf-16-le") == READ
    assert "is not in the encoding ascii (ordinal not in range(128)); pass another --encoding" in refusal(
        path := saved(path, content), encoding="ascii"
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "gbk", "cp1251"])
def test_utf_8_that_is_read_as_something_else_is_told(encoding, tmp_path) -> None:
    path = saved(tmp_path / "data.csv", gzip.compress(CSV.encode()))
    with pytest.warns(UserWarning, match=f"data.csv is UTF-8, but is read as --encoding {encoding}, so letters such"):
        columns(path, wanted(label=text), encoding=encoding)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns(path, encoding="utf8")
        for content in (CSV.encode("utf-16-le"), CSV.encode("cp1252"), b"text,label\na,b\n"):
            told = "utf-16-le" if b"\0" in content else encoding if content.isascii() else "cp1252"
            columns(saved(path, content), encoding=told)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_packed_files_are_read_and_damaged_ones_refused(pack, request, tmp_path) -> None:
    packed = pack(CSV.encode() * 1)
    path = saved(tmp_path / f"data.csv.{request.node.callspec.id}", packed)
    assert columns(path) == READ
    assert " cannot be read: " in (told := refusal(saved(path, packed[:-10]))) and "; make or copy it again" in told
    assert columns(saved(tmp_path / "data.csv", packed)) == READ, "by its content, whatever its name"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("data.csv", b"PAR1....", "data.csv is a parquet file by its content, unlike its name; rename it"),
        ("data.jsonl", b"PK\x03\x04....", "data.jsonl is a zip archive or an Office document by its content"),
        ("data.parquet", b"text,label\na,b\n", "data.parquet cannot be read as parquet: "),
        ("data.docx", b"x", ".conll, .iob, .bio, also packed as .gz"),
        (
            "data.csv",
            b"version https://git-lfs",
            "data.csv is the pointer of Git LFS to a file (`git lfs pull` fetches it) ",
        ),
        (
            "data.csv",
            b"\x28\xb5\x2f\xfd....",
            "data.csv is packed by zstd by its content",
        ),
        ("data.csv", b"ARROW1\0\0...", "data.csv is an Arrow or Feather file by its content"),
        ("data.json", b"<!doctype html>\n", "data.json is a web page by its content, unlike its name"),
        ("data.csv", b"\xef\xbb\xbf\n<HTML lang", "data.csv is a web page by its content"),
        ("data.csv", b"", "data.csv is empty; it needs a header and at least one row"),
        ("data.csv", b"text,label\n", "the data set data.csv has no rows; at least one is needed"),
        ("data.csv", b"text,label\na\0b,pos\n", "line 2 of data.csv holds NUL characters"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(name, content, told, tmp_path) -> None:
    assert told in refusal(saved(tmp_path / name, content))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"encoding": "klingon"}, "--encoding got 'klingon'; it must be an encoding of Python, such as utf-8"),
        ({"encoding": "hex"}, "--encoding got 'hex'; it must be an encoding of Python"),
        ({"separator": "::"}, "--separator got '::'; it must be one character, such as ; or tab"),
        ({"quoting": "yes"}, "--quoting got 'yes'; choose one of: auto, double, backslash, none"),
    ],
)
def test_options_that_cannot_work_are_refused(options, told) -> None:
    with pytest.raises(UsageError) as caught:
        FileArguments(**options)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name", "told"),
    [
        (
            {"separator": ";"},
            "data.jsonl",
            "--separator got ';', but is only for .csv, .tsv files, and there are none",
        ),
        ({"quoting": "none"}, "data.xlsx", "--quoting got 'none', but is only for .csv, .tsv files"),
        (
            {"column_names": ["text"]},
            "data.txt",
            "--column_names got ['text'], but is only for .csv, .tsv, .xlsx files",
        ),
        ({"encoding": "cp1252"}, "data.parquet", "--encoding got 'cp1252', but is only for .csv, .tsv, .json, .json"),
        ({"encoding": "cp1252"}, "no/such", "and there are none in no/such; leave it out"),
    ],
)
def test_options_that_none_of_the_files_is_read_by_are_refused(options, name, told, tmp_path) -> None:
    path = str(saved(tmp_path / name, "x")) if "." in name else name
    with pytest.raises(UsageError) as caught:
        refuse_unused(FileArguments(**options), [path, None])
    assert told in str(caught.value)
    refuse_unused(FileArguments(**options), [path, str(saved(tmp_path / "folder" / "other.csv", "x").parent)])


def test_sheets_are_read_as_they_show_or_need_a_package(tmp_path, monkeypatch) -> None:
    book, path = openpyxl.Workbook(), tmp_path / "data.xlsx"
    for row in (["label", "text", "id"], [1, "café", 0.5], [None, None, None], [0, "b"]):
        book.active.append(row)
    book.save(path)
    assert columns(path) == {"text": ["café", "b"], "label": ["1", "0"]}
    book.active.append([1, None])
    book.active.append([1, "c", 2, "beside"])
    book.save(path)
    assert "row 6 of data.xlsx has 4 fields, but there are 3 columns" in refusal(path)
    assert "; move or delete what is outside of the table" in refusal(path)
    book.create_sheet("other")
    book.save(path)
    assert "data.xlsx has 2 sheets (Sheet, other); save the one that you mean as a file of its own" in refusal(path)
    saved(path, b"no sheet")
    assert "data.xlsx cannot be read as xlsx: " in refusal(path)
    assert "; save it again, or as csv (UTF-8)" in refusal(path)


def test_without_the_package_a_sheet_is_refused_with_a_way_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    told = refusal(saved(tmp_path / "data.xlsx", b"PK\x03\x04"))
    assert told == "data.xlsx needs openpyxl (pip install openpyxl); or save it as csv (UTF-8)"


def test_a_mark_in_the_middle_of_files_that_were_put_below_each_other_is_no_letter(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", "label,text\npos,a\n\ufeffneg,b\n")
    assert columns(path) == {"text": ["a", "b"], "label": ["pos", "neg"]}
    path = saved(tmp_path / "data.jsonl", '{"text": "a", "label": "x"}\n\ufeff{"text": "b", "label": "y"}\n')
    assert columns(path)["text"] == ["a", "b"]
    path = saved(tmp_path / "twice.csv", "text,label\na,x\n\ufefftext,label\nb,y\n")
    assert "line 3 of twice.csv repeats the names of the columns; delete it" in refusal(path)


def test_dates_of_sheets_are_days_and_formulas_that_fail_are_named(tmp_path) -> None:
    book, path = openpyxl.Workbook(), tmp_path / "data.xlsx"
    for row in (["label", "text", "id"], [datetime(2024, 1, 2), "a", "#REF!"], [datetime(2024, 1, 2, 3), "b"]):
        book.active.append(row)
    book.save(path)
    assert columns(path)["label"] == ["2024-01-02", "2024-01-02 03:00:00"], "an error where nobody looks is none"
    book.active.append(["#N/A", "c"])
    book.save(path)
    assert refusal(path) == "row 4 of data.xlsx shows the error #N/A in the column 'label'; correct its formula"


def test_characters_that_excel_writes_by_their_numbers_are_read(tmp_path) -> None:
    """As _x000D_, and the underscore of a text that has such a number itself as _x005F_."""
    book, path = openpyxl.Workbook(), tmp_path / "data.xlsx"
    for row in (["label", "text"], ["a", "one_x000D_\ntwo"], ["b", "_x005F_x000D_ _x1_"]):
        book.active.append(row)
    book.save(path)
    assert columns(path)["text"] == ["one\r\ntwo", "_x000D_ _x1_"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("data.csv.zip", "data.csv.zip is an archive; unpack it, and pass the file or the folder that was in it"),
        ("data.tar.gz", "data.tar.gz is an archive; unpack it"),
        ("data.csv.zst", "data.csv.zst is an archive; unpack it"),
        ("data.xls", "data.xls is a workbook of another kind; save it as .xlsx, or as csv (UTF-8)"),
        ("data.ods", "data.ods is a workbook of another kind; save it"),
        ("data.docx", "data.docx ends in '.docx'; the formats that can be read are .csv"),
    ],
)
def test_archives_and_other_workbooks_are_refused_with_a_way_out(name, told, tmp_path) -> None:
    assert told in refusal(saved(tmp_path / name, "x"))
    if "archive" in told:  # which the library would read by rules of its own
        with pytest.raises(UsageError, match=f"{name} is an archive; unpack it"):
            columns(tmp_path)


def test_texts_in_lines_have_no_other_columns(tmp_path) -> None:
    told = refusal(saved(tmp_path / "a" / "1.txt", "one\n\ntwo\n"))
    assert told == (
        "1.txt holds one text in each line and nothing else, but the columns text, label are needed; write a table, "
        "such as a csv, with a text and what belongs to it in each row"
    )
    assert columns(tmp_path, wanted(text=text))["text"] == ["one", "two"]


def test_parquet_files_with_a_name_twice_or_without_rows_are_refused_and_any_path_is_read(tmp_path) -> None:
    values = [pa.array(["a", "b"]), pa.array(["pos", "neg"])]
    pq.write_table(
        pa.Table.from_arrays([*values, values[0]], ["text", "label", "text"]), path := tmp_path / "a.parquet"
    )
    assert refusal(path) == "a.parquet has 2 columns 'text'; rename all but one"
    table = pa.Table.from_arrays(values, ["text", "label"])
    pq.write_table(table.slice(2), path)
    assert refusal(path) == "the data set a.parquet has no rows; at least one is needed"
    (tmp_path / "f[1]").mkdir()
    pq.write_table(table, tmp_path / "f[1]" / "a*.parquet")
    assert columns(tmp_path / "f[1]" / "a*.parquet") == {"text": ["a", "b"], "label": ["pos", "neg"]}
