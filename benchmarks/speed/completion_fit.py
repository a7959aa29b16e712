"""`MatrixCompletion` with its defaults on a growing number of ratings: time of a fit, and memory."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from benchmarks.speed.completion_step import random_entries
from benchmarks.speed.measuring import measured_in_a_fresh_process, peak_resident_bytes
from dmf import MatrixCompletion


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Fit to every number of entries, each in a process of its own."""
    return {
        "runs": [
            {"entries": count, **measured_in_a_fresh_process(__name__, {**settings, "count": count})}
            for count in settings["entries"]
        ]
    }


def one_fit(settings: dict[str, Any]) -> dict[str, Any]:
    """Fit to `count` random entries of a rank-2 matrix."""
    torch.set_num_threads(settings["threads"])
    rows, cols, values = (part.numpy() for part in random_entries(settings))
    before = peak_resident_bytes()
    start = time.perf_counter(), time.process_time()
    model = MatrixCompletion(random_state=settings["seed"]).fit(rows, cols, values)
    seconds, cpu_seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "epochs": model.n_iter_,
        "peak_resident_bytes": peak_resident_bytes(),
        "peak_resident_bytes_before": before,
    }


if __name__ == "__main__":
    print(json.dumps(one_fit(json.loads(sys.argv[1]))))
