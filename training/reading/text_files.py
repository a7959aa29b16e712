"""Lines of text files: packed or not, in whatever encoding, or a sentence about why not."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from training.errors import UsageError

_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b\x08": gzip.open, b"BZh91AY&SY": bz2.open, b"\xfd7zXZ\x00": lzma.open
}  # fmt: skip
PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_OTHERS = {
    b"PK\x03\x04": "a zip archive or an Office document",
    b"PAR1": "a parquet file",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"%PDF": "a PDF document",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"ARROW1": "an Arrow or Feather file",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"SQLite format 3": "a SQLite database",
    b"version https://": "the pointer of Git LFS to a file (`git lfs pull` fetches it)",
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_UNICODE = ("utf-8", "utf-8-sig", "utf-7")
_PART = 2**20
_SHOWN = 30


def lines_of(path: Path, encoding: str | None = None) -> Iterator[str]:
    r"""Yield the lines of a file with their ends, of which \n, \r and \r\n are ones.

    Args:
        path: may be packed by gzip, bzip2 or xz.
        encoding: UTF-8 if None, unless the first bytes say UTF-16 or UTF-32.

    Raises:
        UsageError: the file is damaged, of another kind, or in another encoding.
    """
    with _opened(path) as file:
        start = file.read(4)
        file.seek(0)
        known = encoding or next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
        try:
            with io.TextIOWrapper(file, encoding=known, newline="") as text:
                for count, line in enumerate(text, start=1):
                    if "\0" in line:
                        raise UsageError(_nul(path, count))
                    yield line.removeprefix("\ufeff")  # in the middle, too, of files that were put below each other
        except UnicodeError as error:
            raise UsageError(_undecoded(path, encoding, known, error)) from error


def tell_of_utf8(path: Path, encoding: str | None) -> None:
    """Warn if a file is UTF-8, and is to be read in an encoding in which it would be other letters.

    Args:
        path: may be packed by gzip, bzip2 or xz.
        encoding: that was asked for.
    """
    if encoding is None or codecs.lookup(encoding).name in _UNICODE or "a".encode(encoding) != b"a":
        return
    decoder, ascii_only = codecs.getincrementaldecoder("utf-8")(), True
    with _opened(path) as file:
        try:
            while part := file.read(_PART):
                ascii_only = ascii_only and part.isascii()
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return
    if not ascii_only:
        warnings.warn(
            f"{path} is UTF-8, but is read as --encoding {encoding}, so letters such as é become others; leave "
            "--encoding out, unless this is meant",
            stacklevel=2,
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise UsageError(f"{path} is empty; it needs a header and at least one row")
    page = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for mark, what in _OTHERS.items():
        if start.startswith(mark) or page.startswith(mark):
            raise UsageError(f"{path} is {what} by its content, unlike its name; rename it, or export it as csv")
    opener = next((opener for mark, opener in _PACKED.items() if start.startswith(mark)), open)
    with opener(path, "rb") as file:
        try:
            yield file
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            raise UsageError(
                f"{path} cannot be read: {str(error) or type(error).__name__}; make or copy it again"
            ) from error


def _nul(path: Path, line: int) -> str:
    return (
        f"line {line} of {path} holds NUL characters, which no text has; if it is UTF-16 without a mark, pass "
        "--encoding utf-16-le (or utf-16-be), otherwise make or copy it again"
    )


def _undecoded(path: Path, given: str | None, encoding: str, error: UnicodeError) -> str:
    if given is not None or encoding not in ("utf-8", "utf-8-sig"):
        return f"{path} is not in the encoding {encoding} ({getattr(error, 'reason', error)}); pass another --encoding"
    number, line, place = _first_undecoded(path)
    if b"\0" in line:
        return _nul(path, number)
    part = line.decode("cp1252", errors="replace")[max(0, place - _SHOWN // 2) :][:_SHOWN].strip()
    return (
        f"line {number} of {path} is not UTF-8; pass its --encoding, such as cp1252 if {part!r} is right (Western "
        "Windows), or save the file as UTF-8"
    )


def _first_undecoded(path: Path) -> tuple[int, bytes, int]:
    r"""Return number and content of the first line that is not UTF-8, and where; a lone \r ends a line, too."""
    with _opened(path) as file:
        text = file.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(text.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return number, line, error.start
    return 1, b"", 0
