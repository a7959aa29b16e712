"""Csv and tsv files: all rows, each as it is written, or a sentence with the line and a remedy."""

from __future__ import annotations

import pytest

from tests.training.reading.reading import TEXTS, columns, refusal, saved, wanted
from training.reading.kinds import text

QUOTING = 'or --quoting (none if quotation marks are part of the texts, backslash if \\" is one inside)'


def sixty(separator: str, **texts: str) -> str:
    """Sixty rows; some texts are replaced, by their number."""
    rows = [
        f"{texts.get(f'n{number}', f'film {number}')}{separator}{('pos', 'neg')[number % 2]}" for number in range(60)
    ]
    return "\n".join([f"text{separator}label", *rows, ""])


@pytest.mark.parametrize(
    ("second", "also"), [('TV 65"', ""), ('"so" called', ""), ('"Great', ""), ('TV 65"', '"all of it"')]
)
def test_texts_that_begin_with_a_quotation_mark_swallow_no_rows_of_a_tsv_file(second, also, tmp_path) -> None:
    path = saved(tmp_path / "data.tsv", sixty("\t", n10='"Great film', n30=second, n40=also or "film 40"))
    found = columns(path)
    assert len(found["text"]) == 60 and found["label"] == ["pos", "neg"] * 30
    assert found["text"][10] == '"Great film' and found["text"][30] == second


def test_in_a_csv_file_they_swallow_none_either_or_are_refused_with_line_and_remedy(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", sixty(",", n10='"Great film', n30='TV 65"'))
    told = (
        "line 12 of data.csv begins a quoted text that ends in line 32 and holds what may be rows; pass --quoting none"
    )
    assert told in refusal(path)
    assert columns(path, quoting="none")["text"][10:31:20] == ['"Great film', 'TV 65"']
    assert len(columns(path, quoting="double")["text"]) == 40
    saved(path, sixty(",", n10='"Great film', n30='"so" called'))
    assert len(columns(path)["text"]) == 60, "only without enclosing marks do the rows fit"
    saved(path, sixty(",", n10='"Great film', n30='"so" called', n40='"good, even"'))
    assert refusal(path).startswith("line 12 of data.csv begins a quoted text that continues after its second") and (
        QUOTING in refusal(path)
    )


@pytest.mark.parametrize(
    ("header", "row"),
    [("id,text,label", "{n},{t},{l}"), ("text,score,label", "{t},{n}.5,{l}"), ("id,text", "{n},{t}"), ("text", "{t}")],
)
def test_swallowed_rows_are_noticed_by_any_column_that_looks_like_one(header, row, tmp_path) -> None:
    texts = {3: '"Great', 6: 'TV 65"'}
    rows = [row.format(n=n, t=texts.get(n, f"film {n}"), l=n % 2) for n in range(12)]
    path = saved(tmp_path / "data.csv", "\n".join([header, *rows]))
    kinds = wanted(text=text)
    assert "line 5 of data.csv begins a quoted text that ends in line 8" in refusal(path, kinds)
    assert len(columns(path, kinds, quoting="none")["text"]) == 12


def test_texts_of_several_lines_between_marks_are_one_row(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", 'text,label\n"Hello, friend\n\nbye",pos\n"a ""b"", c",neg\n"1, 2\r\n3",pos\n')
    assert columns(path)["text"] == ["Hello, friend\n\nbye", 'a "b", c', "1, 2\r\n3"]
    saved(path, "text,label\n" + '"one\ntwo",pos\n' * 3)
    assert columns(path)["text"] == ["one\ntwo"] * 3
    path = saved(tmp_path / "quoted.tsv", '"text"\t"label"\n"a\nb"\t"pos"\n"c ""d"""\t"neg"\n')
    assert columns(path)["text"] == ["a\nb", 'c "d"']
    saved(path, 'text\tlabel\n"a, b"\tpos\n"say ""c"""\tneg\n')
    assert columns(path)["text"] == ["a, b", 'say "c"'], "as Excel writes"
    saved(path, 'text\tlabel\n"a\nb"\tpos\nc\tneg\n')
    assert columns(path)["text"] == ["a\nb", "c"], "without the marks a line would have one field"


def test_marks_escaped_by_backslashes_are_read_when_it_is_said(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", 'text,label\n"say \\"a, b\\"",pos\n"c",neg\n')
    assert QUOTING in refusal(path)
    assert columns(path, quoting="backslash")["text"] == ['say "a, b"', "c"]


def test_a_row_with_more_fields_or_fewer_than_the_header_is_named(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", "text,label\na,b,web\nc,d,web\n")
    assert "line 2 of data.csv has 3 fields, but there are 2 columns (text, label); enclose" in refusal(path)
    assert "line 3 of data.csv has 1 field" in refusal(saved(path, "text,label\na,b\n\\nc\nd,e\n".replace("\\n", "")))
    mixed = refusal(saved(path, "text,label\na,b,\nc,d\n"))
    assert "line 3 of data.csv has 2 fields, but there are 2 columns (text, label), and 3 in the lines before" in mixed
    assert "line 3 of data.csv has 3 fields" in refusal(saved(path, "text,label\na,b\nc, d,\n"))
    twice = refusal(saved(path, "text,label,text\na,b,c\n"))
    assert "line 1 of data.csv names the column 'text' 2 times; rename all but one" in twice


@pytest.mark.parametrize("header", ["text,label", "text,label,", "text,label,,"])
def test_rows_that_all_end_in_separators_are_as_long_as_their_header(header, tmp_path) -> None:
    path = saved(tmp_path / "data.csv", f"{header}\n" + "a,pos,,\nb,neg,,\n")
    assert columns(path) == {"text": ["a", "b"], "label": ["pos", "neg"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.csv", "text;label\na, b;pos\nc;neg\n"),
        ("data.csv", "sep=;\r\ntext;label\r\na, b;pos\r\nc;neg\r\n"),
        ("data.csv", "text\tlabel\na, b\tpos\nc\tneg\n"),
        ("data.tsv", 'text,label\n"a, b",pos\nc,neg\n'),
        ("data.csv", "id|label|text\n1|pos|a, b\n2|neg|c\n"),
        ("data.csv", ' text , label \n"a, b",pos\nc, neg \n'),
        ("X.CSV", 'text,label\r\n"a, b",pos\r\n\r\nc,neg\r\n\r\n'),
        ("data.csv", 'a;b,text,label\n1,"a, b",pos\n2,c,neg\n'),
        ("data.csv", 'label, text\npos, "a, b"\nneg, "c"\n'),
    ],
)
def test_separators_and_names_are_found(name, content, tmp_path) -> None:
    assert columns(saved(tmp_path / name, content)) == {"text": ["a, b", "c"], "label": ["pos", "neg"]}


def test_separators_and_names_may_be_said(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", "a~pos\nb~neg\n")
    told = (
        "no column ['text', 'label'] in data.csv, only ['a~pos']: choose with --text_column and --label_column (a file"
    )
    assert told in refusal(path)
    assert "without a header needs --column_names, one with another separator --separator)" in refusal(path)
    expected = {"text": ["a", "b"], "label": ["pos", "neg"]}
    assert columns(path, separator="~", column_names=["text", "label"]) == expected
    assert columns(saved(path, "a;pos\nb;neg\n"), column_names=["text", "label"]) == expected
    assert columns(saved(path, "a\tpos\nb\tneg\n"), column_names=["text", "label"], separator="tab") == expected


def test_only_wanted_columns_count_and_texts_stay_as_they_are_written(tmp_path) -> None:
    rows = [f"{n if n <= 11000 else f'A{n}'},{n:05},{n % 2}" for n in range(1, 11_003)]
    path = saved(tmp_path / "data.csv", "\n".join(["id,text,label", *rows]))
    found = columns(path)
    assert found["text"][0] == "00001" and found["text"][-1] == "11002" and len(found["text"]) == 11_002
    saved(path, "text,label,label2\n" + "1.50,pos,\nNA,neg,\nTrue,None,\n")
    assert columns(path) == {"text": ["1.50", "NA", "True"], "label": ["pos", "neg", "None"]}


def test_long_fields_are_read(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", f"text,label\n{'x' * 300_000},pos\nb,neg\n")
    assert len(columns(path, TEXTS)["text"][0]) == 300_000


def test_a_header_in_the_middle_or_beside_column_names_is_no_row(tmp_path) -> None:
    path = saved(tmp_path / "data.csv", "text,label\na,1\n text ,label\nb,0\n")
    assert refusal(path) == "line 3 of data.csv repeats the names of the columns; delete it"
    saved(path, "text,label\na,1\n")
    assert refusal(path, column_names=["text", "label"]) == (
        "line 1 of data.csv repeats the names of the columns; leave --column_names out"
    )
    assert columns(saved(path, "text\ntext\n"), wanted(text=text))["text"] == ["text"]
