"""The scale of the stored cores, at the edges of its range."""

import pytest

from deep_lora.functional import auto_core_scale, rate_matching_scale


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("eps", [1e-3, 1e-200, 1e-300])
def test_a_small_start_has_the_scale_that_matches_the_rate(rank, eps):
    assert auto_core_scale(rank, eps) == rate_matching_scale(rank) == 80 / rank
