"""Many launches of two processes one after the other, by hand: does any of them hang, fail, or end elsewhere?

python -m tests.training.trainer.launch_runs --launches 100
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from tests.paths import ROOT
from tests.training import tiny
from tests.training.tiny import QUICK
from training import CONFIGS


def launch(folder: Path, name: str, seconds: float) -> dict[str, torch.Tensor]:
    """A short job on two gloo processes: the adapter that it wrote.

    Raises:
        subprocess.TimeoutExpired, subprocess.CalledProcessError: for a launch that hangs, or fails.
    """
    settings = str(CONFIGS / "cpu_2_processes.yaml")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", settings, "--main_process_port", "0"]
    job = ["-m", "training", "finetune", "--model", "bert", "--dataset", "reviews.csv", "--output_dir", name, *QUICK]
    source = str(ROOT)
    subprocess.run(
        [sys.executable, *launcher, *job], cwd=folder, timeout=seconds, check=True, capture_output=True,
        env=_environment(source),
    )  # fmt: skip
    if json.loads((folder / name / "results.json").read_text(encoding="utf8"))["processes"] != 2:
        raise subprocess.SubprocessError("this was not a run of two processes")
    return load_file(folder / name / "adapter" / "deep_lora" / "adapter_model.safetensors")


def _environment(source: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=100)
    parser.add_argument("--timeout", type=float, default=300, help="seconds after which a launch counts as hanging")
    arguments = parser.parse_args()
    problems, differing, slowest, first = [], 0, 0.0, None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.save_bert(folder / "bert")
        tiny.save_csv(folder / "reviews.csv")
        for number in tqdm(range(arguments.launches), mininterval=30):
            start = time.monotonic()
            try:
                weights = launch(folder, f"run-{number}", arguments.timeout)
            except subprocess.SubprocessError as error:
                problems.append(f"launch {number}: {error}")
                continue
            slowest = max(slowest, time.monotonic() - start)
            first = first or weights
            differing += any(not torch.equal(first[key], weights[key]) for key in first)
    print(*problems, sep="\n")
    print(
        f"{arguments.launches} launches of 2 processes: {len(problems)} hung or failed, {differing} ended elsewhere, "
        f"slowest {slowest:.0f} s"
    )


if __name__ == "__main__":
    main()
