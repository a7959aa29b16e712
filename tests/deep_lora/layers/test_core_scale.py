"""The start and the scale of the stored cores, at the edges of their range."""

import pytest

from deep_lora import DeepLoraConfig
from deep_lora.functional import auto_core_scale


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("eps", [1e-3, 1e-200, 1e-300])
def test_a_small_start_has_the_scale_that_matches_the_rate(rank, eps):
    assert auto_core_scale(rank, eps) == 80 / rank


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_a_large_start_takes_steps_of_the_same_norm_at_every_rank(rank):
    assert rank * auto_core_scale(rank, 0.3) == pytest.approx(1 / (2 * 0.3**2))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, 0.3), ({"subtract_start": False}, 1e-3), ({"variant": "wide"}, 1e-3), ({"init_scale": 0.7}, 0.7)],
)
def test_the_start_is_large_only_where_it_is_subtracted_and_is_saved_as_a_number(settings, expected, tmp_path):
    config = DeepLoraConfig(**settings)
    assert config.init_scale == expected
    config.save_pretrained(str(tmp_path))
    assert DeepLoraConfig.from_pretrained(str(tmp_path)).init_scale == expected
