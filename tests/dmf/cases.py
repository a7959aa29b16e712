"""Data for several tests of `dmf`."""

from __future__ import annotations

import torch


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw independent standard normal entries."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
