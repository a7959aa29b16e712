"""Files as people have them, by seed: a table, a way to write it, and at times damage; and what reading must give.

`python -m tests.training.reading.fuzzed --count 10000` reads so many of them and prints what became of them; the number
of a case is its seed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from training.errors import UsageError
from training.reading.formats import read_table
from training.reading.kinds import class_name, text
from training.reading.tables import Wanted, typed_columns
from training.settings.data import FileArguments

WANTED = [Wanted("text", text, "--text_column"), Wanted("label", class_name, "--label_column")]
WORDS = (
    "film", "good", "a", "NA", "None", "null", "3", "0.5", "café", "naïve", "日本", "🎬", "it's", '5"', '"so"', "\\n",
    "a\\b", ";", "|", "#", "=1+1", "{x}", "[1]", "C:\\new", "\u2028", "\x85", "\u00a0", "O'Neil",
    "-", "…", "%", "&amp;",
)  # fmt: skip
LABELS = (
    ("pos", "neg"),
    ("0", "1"),
    ("0", "1", "x"),
    ("None", "NA", "hate"),
    ("007", "7"),
    ("1", "2", "10"),
    ("a b", "ç"),
)
Rows = list[tuple[str, str]]


@dataclass
class Case:
    """A file, the options to read it, the rows that it holds, and how much may differ.

    `exact`: the rows or a sentence. `clean`: the rows; a sentence only about marks that may enclose rows. `refused`: a
    sentence. `cut`: the rows up to a place; `near`: all but a few rows, of which no more than two are missing.
    """

    name: str
    content: bytes
    rows: Rows
    oracle: str
    kind: str
    options: dict[str, object] = field(default_factory=dict)


def phrase(draw: random.Random, forbidden: str = "") -> str:
    words = [draw.choice(WORDS) for _ in range(draw.randint(1, 6))]
    if draw.random() < 0.15:
        words.insert(0, '"' + words.pop(0))
    joined = draw.choice((" ", " ", ", ", ",", "\t", "\n", "\r\n", "; ")).join(words)
    for letter in forbidden:
        joined = joined.replace(letter, " ")
    return joined if joined.strip() else "film"


def case(seed: int) -> Case:
    draw = random.Random(seed)
    names = draw.choice(LABELS)
    maker = draw.choice((standard, standard, bare, bare, json_lines, json_list))
    return maker(draw, [draw.choice(names) for _ in range(draw.randint(2, 30))])


def columns_of(draw: random.Random, rows: Rows) -> list[list[str]]:
    """The rows with a header, their columns in any order, and others beside them."""
    numbers = [str(number) for number in range(len(rows))]
    columns = {"text": [one for one, _ in rows], "label": [one for _, one in rows]}
    if draw.random() < 0.5:
        columns["id"] = numbers
    if draw.random() < 0.3:
        columns["web"] = [f"site {number}" for number in numbers]
    order = draw.sample(sorted(columns), len(columns))
    return [order, *([columns[name][row] for name in order] for row in range(len(rows)))]


def packed(draw: random.Random, content: str, suffix: str, rows: Rows, oracle: str, kind: str, **options) -> Case:
    """A text in an encoding, packed or not, perhaps cut or changed."""
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"))
    if encoding == "cp1252":
        try:
            raw = content.encode("cp1252")
            if draw.random() < 0.5 or raw.isascii():
                options["encoding"] = "cp1252"
            else:
                oracle, kind = "refused", f"{kind}, cp1252 unsaid"
        except UnicodeEncodeError:
            encoding, raw = "utf-8", content.encode()
    else:
        raw = content.encode(encoding)
    if oracle != "refused" and draw.random() < 0.2:
        raw, oracle, kind = damaged(draw, raw, oracle, kind)
    name = f"data{suffix}" if draw.random() < 0.8 else f"DATA{suffix.upper()}"
    if draw.random() < 0.1:
        name, raw = f"{name}.gz", gzip.compress(raw, 1)
        if draw.random() < 0.2:
            raw, oracle, kind = raw[: max(3, len(raw) - draw.randint(1, 30))], "refused", f"{kind}, packed, cut"
    return Case(name, raw, rows, oracle, kind, options)


def damaged(draw: random.Random, raw: bytes, oracle: str, kind: str) -> tuple[bytes, str, str]:
    place = draw.randrange(len(raw))
    what = draw.choice(("cut", "insert", "delete", "change"))
    if what == "cut":
        return raw[: max(1, place)], "cut", f"{kind}, cut"
    if what == "insert":
        return (
            raw[:place] + draw.choice((b'"', b"\n", b",", b"\t", b"\0", b"\xff", b"{", b"\\")) + raw[place:],
            "near",
            f"{kind}, +1 byte",
        )
    if what == "delete":
        return raw[:place] + raw[place + 1 :], "near", f"{kind}, -1 byte"
    return raw[:place] + bytes([draw.randrange(256)]) + raw[place + 1 :], "near", f"{kind}, changed byte"


def standard(draw: random.Random, labels: list[str]) -> Case:
    """What a csv writer makes of any texts."""
    suffix = draw.choice((".csv", ".csv", ".tsv"))
    separator = "\t" if suffix == ".tsv" else draw.choice(",,,;\t|")
    rows = [(phrase(draw), label) for label in labels]
    out = io.StringIO()
    quoting = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    end = draw.choice(("\n", "\r\n"))
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end)
    table = columns_of(draw, rows)
    kind, oracle = f"{suffix} by a writer", "clean"
    if draw.random() < 0.1:
        table, kind = [table[0], *([*row, ""] for row in table[1:])], f"{kind}, separators at ends"
    elif draw.random() < 0.1:
        table[draw.randrange(1, len(table))].append("more")
        kind, oracle = f"{kind}, a field more", "refused"
    elif draw.random() < 0.1:
        table[draw.randrange(1, len(table))].pop()
        kind, oracle = f"{kind}, a field less", "refused"
    elif draw.random() < 0.05:
        table[0] = ["text" if name == "label" else name for name in table[0]]
        kind, oracle = f"{kind}, a name twice", "refused"
    writer.writerows(table)
    content = out.getvalue()
    if draw.random() < 0.1:
        content = f"sep={separator}{end}{content}"
    if draw.random() < 0.1:
        content += end * draw.randint(1, 3)
    return packed(draw, content, suffix, rows, oracle, kind)


def bare(draw: random.Random, labels: list[str]) -> Case:
    """What an export without quotation marks makes of texts, in which marks are ordinary letters."""
    suffix = draw.choice((".tsv", ".tsv", ".csv"))
    separator = "\t" if suffix == ".tsv" else ","
    commas = suffix == ".csv" and draw.random() < 0.3
    rows = [(phrase(draw, "\n\r" if commas else "\n\r" + separator), label) for label in labels]
    table = columns_of(draw, rows)
    content = "\n".join(separator.join(row) for row in table) + "\n"
    return packed(draw, content, suffix, rows, "exact", f"{suffix} without marks")


def json_lines(draw: random.Random, labels: list[str]) -> Case:
    rows = [(phrase(draw), label) for label in labels]
    typed = draw.random() < 0.3 and all(label in ("0", "1", "2", "10") for label in labels)
    found = [{"id": number if number < 3 else f"A{number}", "text": one, "label": int(two) if typed else two}
             for number, (one, two) in enumerate(rows)]  # fmt: skip
    ascii_only = draw.random() < 0.5
    lines = [json.dumps(one, ensure_ascii=ascii_only) for one in found]
    kind, oracle = ".jsonl", "clean"
    wrong = draw.random()
    if wrong < 0.3:
        place = draw.randrange(len(lines))
        changed = [json.dumps(found[place] | more) for more in ({"text": 7}, {"label": None}, {"label": [1]})]
        bad = (
            lines[place][:-2], "[1]", "nothing", *changed, json.dumps({"text": "x"}),
            lines[place][:-1] + ', "text": "b"}', lines[place] + lines[place], '{"text": "\\ud800", "label": "x"}',
        )  # fmt: skip
        lines[place] = draw.choice(bad)
        kind, oracle = f"{kind}, a bad line", "refused"
    return packed(
        draw, "\n".join(lines) + draw.choice(("", "\n", "\n\n")), draw.choice((".jsonl", ".json")), rows, oracle, kind
    )


def json_list(draw: random.Random, labels: list[str]) -> Case:
    rows = [(phrase(draw), label) for label in labels]
    found: object = [{"text": one, "label": two, "more": [1]} for one, two in rows]
    shape = draw.randrange(4)
    if shape == 1:
        found = {"version": 1, "data": found}
    if shape == 2:
        found = {"text": [one for one, _ in rows], "label": [two for _, two in rows]}
    content = json.dumps(found, indent=draw.choice((None, 2)), ensure_ascii=False)
    oracle = "clean"
    if shape == 3:
        content, oracle = json.dumps({"text": {str(n): one for n, (one, _) in enumerate(rows)}, "label": {}}), "refused"
    return packed(draw, content, draw.choice((".json", ".jsonl")), rows, oracle, ".json")


def fault(made: Case, folder: Path) -> tuple[str, str | None]:
    """Read a case: (what became of it, what is wrong with that or None)."""
    path = folder / made.name
    path.write_bytes(made.content)
    try:
        read = read_table(path, WANTED, FileArguments(**made.options))
        columns, _ = typed_columns(read, WANTED)
    except UsageError as error:
        if made.oracle == "clean" and "begins a quoted text that ends in line" not in str(error):
            return "refused", f"a good file is refused: {error}"
        return "refused", None
    finally:
        path.unlink()
    found = list(zip(columns["text"].to_pylist(), columns["label"].to_pylist(), strict=True))
    return "read", difference(made, found)


def difference(made: Case, found: Rows) -> str | None:
    if made.oracle == "refused":
        return f"read, where a sentence is needed: {found[:3]}"
    if made.oracle in ("clean", "exact"):
        bare_marks = [(without_marks(one, made.name), two) for one, two in made.rows]
        if found == made.rows or (made.oracle == "exact" and found == bare_marks):
            return None
        wrong = next((pair for pair in zip(found, made.rows, strict=False) if pair[0] != pair[1]), None)
        return f"{len(found)} rows of {len(made.rows)}, first difference {wrong}"
    same = sum((Counter(found) & Counter(made.rows)).values())
    if made.oracle == "cut":
        return None if same >= len(found) - 1 else f"{len(found) - same} rows of a cut file are others"
    if len(found) < len(made.rows) - 2 or same < len(made.rows) - 2:
        return f"{len(found)} rows of {len(made.rows)}, {same} of them right"
    return None


def without_marks(entry: str, name: str) -> str:
    """What a reader of standard files makes of a text between marks; in tsv files only if it needed them."""
    enclosed = len(entry) > 1 and entry[0] == entry[-1] == '"' and '"' not in entry[1:-1]
    return entry[1:-1] if enclosed and ("," in entry or ".csv" in name.lower()) else entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0)
    arguments = parser.parse_args()
    began, ends, wrong = time.time(), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.start, arguments.start + arguments.count):
            made = case(seed)
            became, reason = fault(made, Path(folder))
            ends[made.oracle, became] += 1
            if reason:
                wrong.append(seed)
                print(f"seed {seed} ({made.kind}): {reason}", flush=True)
    print(f"{arguments.count} files in {time.time() - began:.0f} s, {len(wrong)} wrong: {wrong}")
    print("\n".join(f"{oracle:>8} {became:>8} {number:>6}" for (oracle, became), number in sorted(ends.items())))
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
