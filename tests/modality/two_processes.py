"""What the tests need from two gloo processes, computed in one go because starting them takes longest."""

from __future__ import annotations

import torch

from tests.modality.losses import cases as losses
from tests.modality.metrics import cases as metrics
from tests.modality.resuming import KILLED_AT, Record, make, outcome
from tests.processes import join_group


def work(rank: int, folder: str, port: int) -> None:
    """Save what each group of cases gives on this rank; then train, and end as a killed run does."""
    join_group(rank, port)
    found = {
        "gather": losses.on_ranks(rank), "statistics": metrics.statistics_on_ranks(rank),
        "gap callback": metrics.callback_on_ranks(folder), "resume": uninterrupted(folder),
    }  # fmt: skip
    torch.save(found, f"{folder}/{rank}.pt")
    make(f"{folder}/killed", Record(KILLED_AT, end_process=True), ddp_backend="gloo").train()


def resume(rank: int, folder: str) -> dict:
    """Continue the killed run from its checkpoint."""
    record = Record()
    run = make(f"{folder}/killed", record, seed=1, ddp_backend="gloo")
    run.train(resume_from_checkpoint=True)
    return outcome(run, record)


def uninterrupted(folder: str) -> dict:
    record = Record()
    run = make(f"{folder}/whole", record, ddp_backend="gloo")
    run.train()
    return outcome(run, record)
