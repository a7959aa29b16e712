"""What a temperature, a scale or a number of periods must be."""

from __future__ import annotations

import math


def is_positive_number(value: object) -> bool:
    """Whether it is a positive, finite number; True and tensors are none.

    >>> is_positive_number(0.07), is_positive_number(math.inf), is_positive_number(True), is_positive_number("1")
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
