"""Memory of a contrastive training step over the batch, in chunks and at once, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from measuring import peak_allocated_bytes, peak_resident_bytes
from modality import DualEncoder


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Peaks for every batch, and their ratio to that of the smallest.

    glibc keeps freed blocks of the sizes that occur here in its heap, and breaks it into pieces: what a process holds
    then says little about what it needs. With every larger block mapped by itself, and given back when freed, the two
    agree; both are measured.
    """
    runs = []
    for allocator, threshold in (("default", None), ("large blocks mapped", str(settings["mapped_from_bytes"]))):
        for batch in settings["batches"]:
            runs.append(
                {"allocator": allocator, "batch": batch, **_in_process({**settings, "batch": batch}, threshold)}
            )
    first = {run["allocator"]: run["peak_resident_bytes"] for run in reversed(runs)}
    for run in runs:
        run["ratio_to_smallest_batch"] = run["peak_resident_bytes"] / first[run["allocator"]]
    at_once = _in_process({**settings, "batch": settings["batches"][0], "chunk_size": None}, None)
    return {"runs": runs, "smallest_batch_at_once": at_once}


def _in_process(settings: dict[str, Any], threshold: str | None) -> dict[str, Any]:
    surroundings = dict(os.environ) | ({} if threshold is None else {"MALLOC_MMAP_THRESHOLD_": threshold})
    command = [sys.executable, __file__, json.dumps(settings)]
    lines = subprocess.run(
        command, cwd=Path(__file__).parent, env=surroundings, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(lines.splitlines()[-1])


def one_batch(settings: dict[str, Any]) -> dict[str, Any]:
    """Two steps of a pair of text towers."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    config = BertConfig(**settings["tower"])
    width = config.hidden_size
    towers = [BertModel(config, add_pooling_layer=False) for _ in range(2)]
    model = DualEncoder(
        *towers, x_width=width, y_width=width, width=settings["width"], chunk_size=settings["chunk_size"]
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, config.vocab_size, (2, settings["batch"], settings["tokens"]))

    def step() -> None:
        optimizer.zero_grad()
        model({"input_ids": tokens[0]}, {"input_ids": tokens[1]}).loss.backward()
        optimizer.step()

    step()
    step()
    return {"peak_resident_bytes": peak_resident_bytes(), "peak_allocated_bytes": peak_allocated_bytes(step)}


if __name__ == "__main__":
    print(json.dumps(one_batch(json.loads(sys.argv[1]))))
