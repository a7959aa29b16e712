"""Numbers as they are written in files, and why something is not one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal

# Words that stand for a missing value among numbers; a class or a text may be called so.
MISSING_WORDS = frozenset((
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "\\N", "n/a", "nan", "null",
))  # fmt: skip
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_COMMAS_IN_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")
_POINTS_IN_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]*)?")
_SPACES_IN_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}([\s'_’][0-9]{3})+([.,][0-9]*)?")
_MINUSES = ("\u2212", "\u2013", "\u2010", "\u2011", "\uff0d", "\ufe63")
_SIGNS = re.compile(r"[%‰$€£¥]")


def number_of(value: object) -> float | None:
    """Return a value as a number; None if it is missing, and infinity if it is not a finite number.

    >>> [number_of(value) for value in (" 1e3 ", "NA", 2, "2,5", True)]
    [1000.0, None, 2.0, inf, inf]
    """
    entry = value.strip() if isinstance(value, str) else value
    if entry is None or entry == "" or (isinstance(entry, str) and entry in MISSING_WORDS):
        return None
    if isinstance(entry, str):
        return float(entry) if NUMBER.fullmatch(entry) else math.inf
    if isinstance(entry, bool) or not isinstance(entry, (int, float, Decimal)):
        return math.inf
    try:
        found = float(entry)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf
    return None if math.isnan(found) else found


def remedy(value: object, column: Iterable[object]) -> str:
    """Return how a value that is not a number would be written as one; it follows "a finite number".

    Commas separate thousands if all values of the column that have one look so.

    >>> remedy("1,000", ["1,000", "2,500"]), remedy("1,000", ["1,000", "0,5"])
    (', without separators of thousands: 1000 for 1,000', ', with a point: 0.5 for 0,5')
    """
    if not isinstance(value, str):
        return ""
    entry = value.strip()
    if entry[:1] in _MINUSES and NUMBER.fullmatch(entry[1:]):
        return f", with an ordinary minus: -5 for {entry[0]}5"
    if _COMMAS_IN_THOUSANDS.fullmatch(entry):
        others = (one.strip() for one in column if isinstance(one, str) and "," in one)
        if all(_COMMAS_IN_THOUSANDS.fullmatch(one) for one in others):
            return ", without separators of thousands: 1000 for 1,000"
    if _DECIMAL_COMMA.fullmatch(entry):
        return ", with a point: 0.5 for 0,5"
    if _POINTS_IN_THOUSANDS.fullmatch(entry):
        return ", without separators of thousands and with a point: 1000.5 for 1.000,5"
    if _SPACES_IN_THOUSANDS.fullmatch(entry):
        return ", without separators of thousands: 1000 for 1 000"
    return ", without signs: 50 for 50% or $50" if _SIGNS.search(entry) else ""


def may_be_thousands(column: Iterable[object]) -> str | None:
    """Return the first value of which a point may separate the thousands: 1.200 beside 950 that has none.

    That is, all values with a point have three digits after it, and others have no point and are smaller.

    >>> may_be_thousands(["950", "1.200"]), may_be_thousands(["0.950", "1.200"]), may_be_thousands(["2", "1.25"])
    ('1.200', None, None)
    """
    texts = [one.strip() for one in column if isinstance(one, str)]
    pointed = [one for one in texts if "." in one]
    whole = [one for one in texts if one.lstrip("+-").isdecimal()]
    alike = bool(pointed) and all(_POINTS_IN_THOUSANDS.fullmatch(one) for one in pointed)
    large = [one for one in whole if len(one.lstrip("+-0")) == 3]
    return pointed[0] if alike and large and all(len(one.lstrip("+-0")) <= 3 for one in whole) else None
