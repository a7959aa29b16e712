"""Run benchmarks: one JSON of settings in, one JSON of results out.

    python -m benchmarks.run training_step_768            # settings/training_step_768.json -> results/...
    python -m benchmarks.run --list
    python -m benchmarks.run training_step_768 --repeats 2 --output /tmp/quick.json

Nothing else should run on the machine: steps are timed.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch

from benchmarks.result_files import RESULTS, SETTINGS, environment, read_json, write_json

# kind: module and function; loaded when needed, for each has requirements of its own
BENCHMARKS = {
    "training_step": ("speed.training_step", "measure_time"),
    "training_memory": ("speed.training_step", "measure_memory"),
    "initialization": ("speed.initialization", "measure"),
    "adapter_operations": ("speed.adapter_operations", "measure"),
    "completion_step": ("speed.completion_step", "measure_steps"),
    "completion_scale": ("speed.completion_step", "measure_scale"),
    "completion_fit": ("speed.completion_fit", "measure"),
    "contrastive_memory": ("speed.contrastive_memory", "measure"),
    "contrastive_overhead": ("speed.contrastive_overhead", "measure"),
    "completion_steps": ("studies.completion_recovery", "measure_steps_to_recover"),
    "completion_recovery": ("studies.completion_recovery", "measure_table"),
    "modality_gap": ("studies.modality_gap.comparison", "measure"),
    "compare_command": ("studies.compare_command", "measure"),
    "plain_rates": ("studies.plain_rates", "measure"),
    "chat_run": ("studies.chat_run", "measure"),
    "mixed_pool": ("studies.mixed_pool", "measure"),
    "few_shot": ("few_shot.campaign", "measure"),
    "step_search": ("studies.step_search", "measure"),
    "tracking": ("few_shot.tracking", "measure"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="settings to run: names of files in benchmarks/settings, no suffix")
    parser.add_argument("--list", action="store_true", help="list the settings and stop")
    parser.add_argument("--repeats", type=int, help="instead of the number in the settings")
    parser.add_argument("--output", type=Path, help="result file, for a single name (default: in benchmarks/results)")
    arguments = parser.parse_args()
    known = sorted(path.stem for path in SETTINGS.glob("*.json"))
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
    settings = read_json(SETTINGS / f"{name}.json")
    if repeats is not None:
        settings["repeats"] = repeats
    torch.set_num_threads(settings["threads"])
    module, function = BENCHMARKS[settings["benchmark"]]
    measured = getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings)
    path = output or RESULTS / f"{name}.json"
    write_json(path, {"settings": settings, "environment": environment(), **measured})
    return path


def main() -> None:
    arguments = parse_arguments()
    for name in arguments.names:
        print(f"{name} -> {run(name, arguments.repeats, arguments.output)}", flush=True)


if __name__ == "__main__":
    main()
