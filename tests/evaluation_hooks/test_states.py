"""Random states after a block are those before it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from evaluation_hooks import random_states_kept


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_drawn_inside_does_not_change_what_is_drawn_after(fails) -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = draw()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    try:
        with random_states_kept():
            inside = draw()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert inside == expected == draw()
