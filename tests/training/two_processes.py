"""A command in two processes, as `accelerate launch` with the shipped configuration for the CPU would start them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch.multiprocessing.spawn import ProcessExitedException

from tests.processes import run_two, take_rank
from training.cli import main


def command_of_two(words: list[str], folder: Path) -> None:
    """Run `deep-lora` with these words in both; `folder` gets what each of them printed."""
    try:
        run_two(partial(_work, words), folder)
    except ProcessExitedException as error:
        printed = "\n".join(path.read_text() for path in sorted(folder.glob("printed-*.txt")))
        raise AssertionError(printed[-4000:]) from error


def _work(words: list[str], rank: int, folder: str, port: int) -> None:
    printed = os.open(f"{folder}/printed-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    take_rank(rank, 2, port)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    status = main(words)
    os._exit(status)  # gloo's threads need not be waited for
