"""Settings of every test: offline, reproducible, one thread for one process."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_DISABLED", "true")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("reproducible", derandomize=True)  # the same examples in every run
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
