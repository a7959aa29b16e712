"""A wrong configuration is refused when it is made; the text names the field, what came and what is needed."""

import pytest

from deep_lora import DeepLoraConfig

CONFIGS = [
    ({"r": 0}, "`r` should be a positive integer value but the value passed is 0"),
    ({"r": -4}, "`r` should be a positive integer value but the value passed is -4"),
    ({"r": 2.5}, "`r` should be a positive integer value but the value passed is 2.5"),
    ({"r": True}, "`r` should be a positive integer value but the value passed is True"),
    ({"rank_pattern": {"a": 0}}, "`rank_pattern` should be a positive integer"),
    ({"depth": 0}, "`depth` should be a positive integer"),
    ({"depth": 1, "variant": "narrow"}, r"at least 2 .*the narrow and wide variants count U and V among"),
    ({"depth_pattern": {"a": 1}, "variant": "wide"}, "`depth_pattern` must be at least 2 for variant 'wide'"),
    ({"variant": "deep"}, "`variant` must be one of compressed, narrow, wide, got 'deep'"),
    ({"init_scale": 0.0}, r"`init_scale` must be a number in \(0, inf\), got 0.0"),
    ({"init_scale": float("nan")}, "`init_scale` must be a number.*got nan"),
    ({"init_scale": "small"}, "`init_scale` must be a number.*got 'small'"),
    ({"core_scale": -1.0}, r"`core_scale` must be a number in \(0, inf\), got -1.0"),
    ({"core_scale": "big"}, "`core_scale` must be a positive number or 'auto', got 'big'"),
    (
        {"freeze_subspaces": "no"},
        "`freeze_subspaces` must be True or False, got 'no'",
    ),
    (
        {"freeze_subspaces": True, "variant": "narrow"},
        "`freeze_subspaces` needs variant 'compressed', got 'narrow'",
    ),
    ({"deep_lora_dropout": 1.0}, r"`deep_lora_dropout` must be a number in \[0, 1\), got 1.0"),
    ({"bias": "lora_only"}, "`bias` must be 'none', 'all' or 'deep_lora_only', got 'lora_only'"),
    (
        {"target_modules": "q", "layers_to_transform": 1},
        "`layers_to_transform` cannot be used .* Got 'q'; pass a list",
    ),
    ({"target_modules": "q", "layers_pattern": "h"}, "`layers_pattern` cannot be used when `target_modules` is a str"),
    ({"layers_pattern": "h"}, "When `layers_pattern` is specified, `layers_to_transform` must also be specified"),
    ({"deep_lora_version": 99}, "format 99, this version of deep_lora reads .*pip install -U deep-lora"),
    ({"task_type": "GUESSING"}, "Invalid task type: 'GUESSING'"),
]


@pytest.mark.parametrize("settings,text", CONFIGS)
def test_a_wrong_configuration_is_refused_when_it_is_made(settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DeepLoraConfig(**settings)
