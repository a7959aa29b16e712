"""What arrays and tables would silently lose is refused: which values are masked, and which rows belong together."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from evaluation_hooks import check_same_order, check_unmasked

TABLE = pandas.DataFrame({"a": [1.0, 2.0, 3.0]})


def test_masked_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values of `x` are masked, and they would count; leave these rows out"):
        check_unmasked(np.ma.masked_greater([1.0, 2.0, 3.0], 1.5), "x")
    for values in (np.ma.masked_greater([1.0, 2.0], 5.0), [1.0, 2.0], TABLE, None):
        check_unmasked(values, "x")


def test_the_same_index_in_another_order_is_refused() -> None:
    text = (
        r"`x` and `y` have the same index in different orders, and rows are matched by position; pass "
        r"`y.loc\[x.index\]`, or `.to_numpy\(\)` of both if positions are right"
    )
    with pytest.raises(ValueError, match=text):
        check_same_order(x=TABLE, y=TABLE["a"][::-1])
    for other in (TABLE["a"], TABLE[:2][::-1], TABLE.set_index("a"), TABLE[::-1].to_numpy(), None):
        check_same_order(x=TABLE, y=other)
    check_same_order(x=TABLE[::-1].to_numpy(), y=TABLE, z=TABLE[::-1])  # only the first one has rows to match
