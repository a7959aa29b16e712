"""What the tests need from two gloo processes, computed in one go, for starting them takes longest."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def start(folder: str, port: int) -> list[dict]:
    """What `on_ranks` of each test module returned on either rank; the processes end as a killed run does."""
    torch.multiprocessing.spawn(work, args=(folder, port), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


def work(rank: int, folder: str, port: int) -> None:
    from tests.modality import test_gap_callback, test_gather, test_resume, test_statistics

    join(rank, port)
    modules = {
        "gather": test_gather, "statistics": test_statistics, "gap callback": test_gap_callback, "resume": test_resume,
    }  # fmt: skip
    torch.save({name: module.on_ranks(rank, folder) for name, module in modules.items()}, f"{folder}/{rank}.pt")
    test_resume.train_until_killed(folder)


def join(rank: int, port: int) -> None:
    """One of two processes, as `torchrun` starts them."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    dist.init_process_group("gloo")
