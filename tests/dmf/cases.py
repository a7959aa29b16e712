"""Data for several tests of `dmf`."""

from __future__ import annotations

import torch


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    """Draw independent standard normal entries in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
