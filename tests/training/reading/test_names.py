"""Numbers of names: found by value among numbers, and as they are written otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from training.reading.names import find_names, number_names


@pytest.mark.parametrize(
    ("held", "names", "asked", "found"),
    [
        (["10", "9", "9.0"], ["9", "10"], ["9", "9.00", " 10", "09", "9..0", "b"], [0, 0, 1, -1, -1, -1]),
        ([2, 10, 2], ["2", "10"], ["2.0", 10, "002"], [0, 1, -1]),
        ([2.0, 10.0, 0.5], ["0.5", "2", "10"], [10, "0.50", 2.5], [2, 0, -1]),
        (["7", "007"], ["007", "7"], ["7", "007", "7.0", "07"], [1, 0, -1, -1]),
        (["1.0", "1", "beta"], ["1", "1.0", "beta"], ["1", "1.0", "1.00"], [0, 1, -1]),
        (["-1", "-1.5", "3"], ["-1.5", "-1", "3"], ["-1.0", "-1.50"], [1, 0]),
        (["-0.0", "0", "1"], ["0", "1"], ["-0", 0], [0, 0]),
        ([str(2**63), str(2**63 + 1)], [str(2**63), str(2**63 + 1)], [f"{2**63 + 1}.0"], [1]),
    ],
    ids=["numbers", "integers", "reals", "codes", "texts", "signs", "zeros", "large"],
)
def test_names_are_found_by_value_among_numbers_and_as_written_otherwise(held, names, asked, found) -> None:
    codes, known = number_names(pd.Series(held))
    assert known == names
    assert np.array_equal(find_names(known, pd.Series(held)), codes) and sorted(set(codes)) == list(range(len(names)))
    assert find_names(known, pd.Series(asked, dtype=object)).tolist() == found
