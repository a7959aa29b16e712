"""How the benchmarks measure: interleaved repeats in one process, ratios within a round, peaks from the allocator."""

from __future__ import annotations

import gc
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")


def interleaved_seconds(
    functions: dict[str, Callable[[], Any]],
    repeats: int,
    warmup: int,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every function in `repeats` rounds; each round calls all of them in a fresh random order.

    Machines drift, so times are comparable within a round only. The collector of garbage runs between the calls.
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
    """Median, quartiles and extremes."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper, "min": min(values), "max": max(values)}


def compared(seconds: dict[str, list[float]], peer: str) -> dict[str, dict[str, Any]]:
    """For every function its seconds, and the ratio to the peer's within each round."""
    return {
        name: {
            "seconds": spread(values),
            f"ratio_to_{peer}": spread([a / b for a, b in zip(values, seconds[peer], strict=True)]),
            "all_seconds": values,
        }
        for name, values in seconds.items()
    }


def peak_allocated_bytes(function: Callable[[], Any]) -> int:
    """The most bytes of tensors that were alive at once during the call, over those alive before.

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
    """The most memory that this process has held so far.

    The kernel's mark in /proc belongs to the program; that of getrusage is inherited from the parent process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment() -> dict[str, Any]:
    """What the figures depend on beside the settings."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "processor": _processor(), "device": _device(), "threads": torch.get_num_threads()}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
