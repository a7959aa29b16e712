"""Two processes of one group on this machine, as a launcher would start them, and how each of them ends.

They are forks of one server, in which the libraries are imported once for all tests of this process.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

# What takes long to import, and starts no thread. What cannot be imported is passed over.
PRELOAD = [
    "accelerate.commands.launch", "collapse", "deep_lora", "modality", "sentence_transformers", "torch._dynamo",
    "torch.distributed.fsdp", "training.commands.contrastive", "training.commands.finetune",
    "transformers.models.bert.modeling_bert", "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5",
]  # fmt: skip


def run_two(work: Callable[[int, str, int], None], folder: str | Path) -> None:
    """Call `work(rank, folder, port)` in two new processes, and wait for both.

    Args:
        work: a function of a module, since the processes import it.
        folder: where both may read and write.
    """
    arguments = (work, dict(os.environ), str(folder), free_port())
    forks()
    torch.multiprocessing.start_processes(_enter, arguments, nprocs=2, start_method="forkserver")


def forks() -> Any:
    """Return the context of multiprocessing whose processes are forks of a server that has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _enter(
    rank: int, work: Callable[[int, str, int], None], environment: dict[str, str], folder: str, port: int
) -> None:
    os.environ.update(environment)  # of the process that asks; the server has that of the first one
    torch.set_num_threads(1)
    work(rank, folder, port)


def results_of_two(compute: Callable[[int, str], Any], folder: str | Path) -> list[Any]:
    """Return what `compute(rank, folder)` gives in each of two new processes of one gloo group.

    Args:
        compute: a function of a module; what it returns is read by `torch.load`.
        folder: where both may read and write.
    """
    run_two(partial(_compute, compute), folder)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


def _compute(compute: Callable[[int, str], Any], rank: int, folder: str, port: int) -> None:
    join_group(rank, port)
    torch.save(compute(rank, folder), f"{folder}/{rank}.pt")
    end_process()


def join_group(rank: int, port: int) -> None:
    """Be one of two processes of a gloo group, as `torchrun` starts them."""
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
