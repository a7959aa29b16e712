"""How the benchmarks measure: interleaved repeats in one process, ratios within a round, peaks from the allocator."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.result_files import ROOT


def interleaved_seconds(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    warmup: int,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every function in `repeats` rounds; each round calls all of them in a new random order.

    Machines drift, so times are comparable within a round only. Garbage is collected between the calls.
    """
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(warmup + repeats):
        names = list(functions)
        order.shuffle(names)
        for name in names:
            gc.collect()
            start = clock()
            functions[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            elapsed = clock() - start
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Summarize values by their median, quartiles and extremes."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper, "min": min(values), "max": max(values)}


def compared(seconds: dict[str, list[float]], peer: str) -> dict[str, dict[str, Any]]:
    """Summarize the seconds of every function, and their ratio to the peer's within each round."""
    return {
        name: {
            "seconds": spread(values),
            f"ratio_to_{peer}": spread([a / b for a, b in zip(values, seconds[peer], strict=True)]),
            "all_seconds": values,
        }
        for name, values in seconds.items()
    }


def peak_allocated_bytes(function: Callable[[], Any]) -> int:
    """Measure the most bytes of tensors that were alive at once during the call, beyond those alive before.

    On CUDA from the allocator's own statistics, on the CPU by following every allocation and release.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    alive = peak = 0
    results: Any = recorded.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def peak_resident_bytes() -> int:
    """Measure the most memory that this process has held so far.

    /proc has the peak of this program; getrusage's peak is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_in_a_fresh_process(
    module: str, settings: dict[str, Any], variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run `python -m module SETTINGS`, and read the JSON in the last line of its output.

    Args:
        module: the module to run, which reads its settings as JSON.
        settings: what it measures.
        variables: environment variables for the process, besides those of this one.
    """
    command = [sys.executable, "-m", module, json.dumps(settings)]
    surroundings = os.environ | (variables or {})
    done = subprocess.run(command, cwd=ROOT, env=surroundings, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
