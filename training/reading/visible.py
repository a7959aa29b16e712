"""What one sees of a text: names without invisible characters, those that look alike, and texts of nothing."""

from __future__ import annotations

import re
import unicodedata

# Invisible characters: spaces of all kinds, marks of direction, and characters of zero width.
_MARKS = "\u00ad\u034f\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
_UNSEEN = re.compile(rf"[\s{_MARKS}\ufe00-\ufe0f]*")
BLANK_FOR_ARROW = rf"^[\s\x0b\x1c-\x1f\x85\pZ{_MARKS}\x{{fe00}}-\x{{fe0f}}]*$"  # in Arrow \s matches ASCII only
_AT_ENDS = re.compile(rf"^[\s{_MARKS}]+|[\s{_MARKS}]+$")
_ALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0445\u0443\u0456\u03bf\u2010\u2013\u2014\u2018\u2019", "aeopcxyio---''"
)


def composed(name: str) -> str:
    r"""Return a name without spaces and invisible marks at its ends, in Unicode's composed form.

    >>> composed(" spam\u200b"), len(composed("cafe\u0301"))
    ('spam', 4)
    """
    return unicodedata.normalize("NFC", _AT_ENDS.sub("", name))


def seen(name: str) -> str:
    r"""Return a name as it looks: without capitals, invisible marks and repeated spaces; look-alikes are one.

    >>> seen("Very  g\u200bood ")
    'very good'
    """
    found = unicodedata.normalize("NFKC", re.sub(f"[{_MARKS}]", "", name))
    return " ".join(found.casefold().translate(_ALIKE).split())


def is_blank(value: str) -> bool:
    r"""Tell whether a text has no visible character.

    >>> is_blank(" \u200b\n"), is_blank(" ."), is_blank("")
    (True, False, True)
    """
    return _UNSEEN.fullmatch(value) is not None
