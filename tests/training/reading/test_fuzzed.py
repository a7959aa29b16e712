"""Some hundreds of the fuzzed files; `python -m tests.training.reading.fuzzed --count 10000` reads them all."""

from __future__ import annotations

import pytest

from tests.training.reading.fuzzed import case, fault


@pytest.mark.parametrize("hundred", range(4))
def test_fuzzed_files_end_in_the_right_rows_or_in_a_sentence(hundred, tmp_path) -> None:
    wrong = {}
    for seed in range(100 * hundred, 100 * hundred + 100):
        made = case(seed)
        _, reason = fault(made, tmp_path)
        if reason:
            wrong[seed] = f"{made.kind}: {reason}"
    assert wrong == {}
