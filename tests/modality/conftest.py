"""Two processes for the tests that need them."""

from __future__ import annotations

import pytest
import torch

from tests.modality.two_processes import work
from tests.processes import run_two


@pytest.fixture(scope="session")
def ranks_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gloo")


@pytest.fixture(scope="session")
def ranks(ranks_folder):
    """What each of two processes computed, by group of cases."""
    run_two(work, ranks_folder)
    return [torch.load(ranks_folder / f"{rank}.pt") for rank in range(2)]
