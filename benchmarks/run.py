"""Run benchmarks: one JSON of settings in, one JSON of results out.

    python benchmarks/run.py training_step_768            # settings/training_step_768.json -> results/...
    python benchmarks/run.py --list
    python benchmarks/run.py training_step_768 --repeats 2 --output /tmp/quick.json

Nothing else should run on the machine: steps are timed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from pathlib import Path

import torch

from measuring import environment

FOLDER = Path(__file__).resolve().parent
# kind: module and function; loaded when needed, for each has requirements of its own
BENCHMARKS = {
    "training_step": ("training_step", "measure_time"),
    "training_memory": ("training_step", "measure_memory"),
    "initialization": ("initialization", "measure"),
    "adapter_operations": ("adapter_operations", "measure"),
    "completion_step": ("completion_speed", "measure_steps"),
    "completion_scale": ("completion_speed", "measure_scale"),
    "completion_steps": ("completion_recovery", "measure_steps_to_recover"),
    "completion_recovery": ("completion_recovery", "measure_table"),
    "contrastive_memory": ("contrastive_memory", "measure"),
    "contrastive_overhead": ("contrastive_overhead", "measure"),
    "modality_gap": ("modality_gap_emoji", "measure"),
    "few_shot": ("evidence_campaign", "measure"),
    "tracking": ("evidence_tracking", "measure"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="settings to run: names of files in benchmarks/settings, no suffix")
    parser.add_argument("--list", action="store_true", help="list the settings and stop")
    parser.add_argument("--repeats", type=int, help="instead of the number in the settings")
    parser.add_argument("--output", type=Path, help="result file, for a single name (default: in benchmarks/results)")
    arguments = parser.parse_args()
    known = sorted(path.stem for path in (FOLDER / "settings").glob("*.json"))
    if arguments.list or not arguments.names:
        parser.exit(message="\n".join(known) + "\n")
    unknown = sorted(set(arguments.names) - set(known))
    if unknown:
        parser.error(f"no settings called {', '.join(unknown)}; there are {', '.join(known)}")
    if arguments.output and len(arguments.names) > 1:
        parser.error("--output goes with one name only")
    return arguments


def run(name: str, repeats: int | None, output: Path | None) -> Path:
    """Measure one set of settings and write the result, complete or not at all."""
    settings = json.loads((FOLDER / "settings" / f"{name}.json").read_text(encoding="utf8"))
    if repeats is not None:
        settings["repeats"] = repeats
    torch.set_num_threads(settings["threads"])
    module, function = BENCHMARKS[settings["benchmark"]]
    measured = getattr(importlib.import_module(module), function)(settings)
    result = {"settings": settings, "environment": environment(), **measured}
    path = output or FOLDER / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    os.replace(partial, path)
    return path


def main() -> None:
    arguments = parse_arguments()
    for name in arguments.names:
        print(f"{name} -> {run(name, arguments.repeats, arguments.output)}", flush=True)


if __name__ == "__main__":
    main()
