"""Memory of a contrastive training step over the batch, in chunks and at once, each in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import BertConfig, BertModel

from benchmarks.speed.measuring import measured_in_a_fresh_process, peak_allocated_bytes, peak_resident_bytes
from modality import DualEncoder


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure the peak of every batch size, and its ratio to that of the smallest.

    glibc keeps freed blocks of these sizes in its heap, which becomes fragmented: what a process holds then says
    little about what it needs. With every larger block mapped by itself, and returned when it is freed, the two agree;
    both are measured.
    """
    runs = []
    mapped = {"MALLOC_MMAP_THRESHOLD_": str(settings["mapped_from_bytes"])}
    for allocator, variables in (("default", {}), ("large blocks mapped", mapped)):
        for batch in settings["batches"]:
            peaks = measured_in_a_fresh_process(__name__, {**settings, "batch": batch}, variables)
            runs.append({"allocator": allocator, "batch": batch, **peaks})
    first = {run["allocator"]: run["peak_resident_bytes"] for run in reversed(runs)}
    for run in runs:
        run["ratio_to_smallest_batch"] = run["peak_resident_bytes"] / first[run["allocator"]]
    smallest = {**settings, "batch": settings["batches"][0], "chunk_size": None}
    at_once = measured_in_a_fresh_process(__name__, smallest)
    return {"runs": runs, "smallest_batch_at_once": at_once}


def one_batch(settings: dict[str, Any]) -> dict[str, Any]:
    """Train a pair of text towers for two steps, and measure a third."""
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
