"""Two processes of one group on this machine, as a launcher would start them, and how each of them ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist


def run_two(work: Callable[[int, str, int], None], folder: str | Path) -> None:
    """Call `work(rank, folder, port)` in two new processes, and wait for both.

    Args:
        work: a function of a module, since the processes import it.
        folder: where both may read and write.
    """
    torch.multiprocessing.spawn(work, args=(str(folder), free_port()), nprocs=2)


def results_of_two(compute: Callable[[int, str], Any], folder: str | Path) -> list[Any]:
    """Return what `compute(rank, folder)` gives in each of two new processes of one gloo group.

    Args:
        compute: a function of a module; what it returns is read by `torch.load`.
        folder: where both may read and write.
    """
    torch.multiprocessing.spawn(_compute, args=(compute, str(folder), free_port()), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


def _compute(rank: int, compute: Callable[[int, str], Any], folder: str, port: int) -> None:
    join_group(rank, port)
    torch.save(compute(rank, folder), f"{folder}/{rank}.pt")
    end_process()


def join_group(rank: int, port: int) -> None:
    """Be one of two processes of a gloo group, with one thread, as `torchrun` starts them."""
    torch.set_num_threads(1)
    take_rank(rank, 2, port)
    dist.init_process_group("gloo")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def take_rank(rank: int, processes: int, port: int) -> None:
    """Tell torch and accelerate which process this is, by their environment variables."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"})


def end_process() -> NoReturn:
    """End this process of the group, with status 0, once all have come so far; what it has to say must be written.

    No destructor runs: gloo's holds the interpreter's lock while it waits for a thread, which may be waiting for that
    lock to let go of the last tensor that it gathered (seen with torch 2.13).
    """
    dist.barrier()
    os._exit(0)
