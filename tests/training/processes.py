"""Several processes of one run on this machine, as a launcher would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def take_rank(rank: int, processes: int, port: int) -> None:
    """Tells accelerate which process this is."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"})


def run_two(work: Callable[[int, str, int], None], folder: Path) -> None:
    """Two processes that call `work(rank, folder, port)`."""
    torch.multiprocessing.spawn(work, args=(str(folder), free_port()), nprocs=2)
