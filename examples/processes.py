"""What the scripts do alike when `accelerate launch` starts several processes of them."""

from __future__ import annotations

import sys

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers.utils import logging


def on_cpu() -> bool:
    """Whether to compute on the CPU: there is nothing else, or `accelerate launch --cpu` was asked for."""
    return not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def processes() -> PartialState:
    """The processes that `accelerate launch` started, connected; a single one without it."""
    return PartialState(cpu=on_cpu())


def say(text: str = "") -> None:
    """Prints once, and not once for each process."""
    if processes().is_main_process:
        print(text, flush=True)


def refuse(error: Exception) -> int:
    """Says once what cannot work; exit status 2."""
    if processes().is_main_process:
        print(f"error: {error}", file=sys.stderr)
    return 2


def quieten() -> None:
    """Leaves progress bars of loading to nobody, and warnings to the main process."""
    logging.disable_progress_bar()
    if not processes().is_main_process:
        logging.set_verbosity_error()


def own_share(batch_size: int) -> int:
    """Samples that each process takes of a batch, rounded up, so that a step is as large as with one process."""
    return -(-batch_size // processes().num_processes)
