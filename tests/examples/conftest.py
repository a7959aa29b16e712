"""Each example's `--smoke` once in this process, and once in two processes of `accelerate launch`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

for library in ("datasets", "sklearn", "matplotlib", "rich", "pandas"):
    pytest.importorskip(library)

from training import CONFIGS  # noqa: E402

sys.path.insert(0, str(ROOT / "examples"))

SCRIPTS = ("few_shot_text", "causal_lm", "modality_gap", "neural_collapse", "matrix_completion")


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Name of an example -> the folder it wrote, run in this process at most once."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp("alone") / name
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [f"{name}.py", "--smoke", "--output_dir", str(folder)])
                assert importlib.import_module(name).main() == 0
            done[name] = folder
        return done[name]

    return run


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """The folder in which two processes ran every example, and what each of the two reports."""
    folder = tmp_path_factory.mktemp("together")
    config = ["--config_file", str(CONFIGS / "cpu_2_processes.yaml"), "--main_process_port", "0"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *config]
    script = str(Path(__file__).with_name("launched.py"))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("data"))}
    done = subprocess.run(
        [*launch, script, str(folder), *SCRIPTS], env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(2)]
