"""FSDP 2 on two gloo processes: subspaces, losses, checkpoints and the export are those of one process.

accelerate opens FSDP on accelerators only, so these processes call their CPUs one. Everything behind that gate is real.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import accelerate.state
import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests.processes import run_two, take_rank
from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.trainer import checkpoints

pytestmark = pytest.mark.slow
FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_RESHARD_AFTER_FORWARD": "true",
}  # fmt: skip


def command(folder: Path, name: str, batch: int) -> list[str]:
    options = {
        "model": folder / "llama", "dataset": folder / "texts.csv", "output_dir": folder / name, "task": "causal_lm",
        "max_steps": 6, "per_device_train_batch_size": batch, "save_strategy": "steps", "save_steps": 3,
        "init_batches": 2,
    }  # fmt: skip
    return ["finetune", *QUICK, *(str(word) for key, value in options.items() for word in (f"--{key}", value))]


def work(rank: int, folder: str, port: int) -> None:
    take_rank(rank, 2, port)
    os.environ.update(FSDP)
    original = accelerate.state.PartialState.__init__

    def open_gate(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate.state.PartialState.__init__ = open_gate
    status = main(command(Path(folder), "spread", 4))
    os._exit(status)  # gloo's threads need not be waited for


def launch(folder: Path) -> None:
    run_two(work, folder)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / "adapter_model.safetensors")


def test_spread_weights_train_as_whole_ones_and_resume(tmp_path) -> None:
    tiny.save_llama(tmp_path / "llama", width=16)  # narrow: the subspaces are exact, not sketched
    tiny.save_csv(tmp_path / "texts.csv", rows=60)
    assert main(command(tmp_path, "alone", 8)) == 0
    launch(tmp_path)
    alone, spread = (tiny.results(tmp_path / name) for name in ("alone", "spread"))
    assert spread["processes"] == 2
    losses = [[entry["loss"] for entry in one["log"] if "loss" in entry] for one in (alone, spread)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert weights(tmp_path, "spread/adapter").keys() == weights(tmp_path, "alone/adapter").keys()
    expected = weights(tmp_path, "spread/adapter/deep_lora")
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path / "spread")] == ["checkpoint-3", "checkpoint-6"]
    shutil.rmtree(tmp_path / "spread" / "checkpoint-6")
    launch(tmp_path)
    assert tiny.results(tmp_path / "spread")["resumed_from"] == "checkpoint-3"
    for name, tensor in weights(tmp_path, "spread/adapter/deep_lora").items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
