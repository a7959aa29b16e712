"""The example of the package's documentation trains a tiny CLIP with plain Trainer, in under twenty lines of code."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import torch

import modality
from modality import ContrastiveModel
from tests.modality.models import Pairs, clip, logged


def documented_block():
    lines = inspect.cleandoc(modality.__doc__).split("\n")
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line).strip("\n"))


def test_the_block_of_the_documentation_runs_as_it_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    clip().save_pretrained("tiny")
    block = documented_block()
    code = [line for line in block.split("\n") if line and not line.startswith(("from ", " " * 26))]
    assert len(code) < 20
    settings = 'use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1, per_device_train_batch_size=8, '
    block = block.replace("openai/clip-vit-base-patch32", "tiny").replace("num_train", settings + "num_train")
    names = {"train": Pairs(16, 1), "test": Pairs(9, 2)}
    exec(compile(block, "the documentation", "exec"), names)
    trainer = names["trainer"]
    assert logged(trainer, "tau") == pytest.approx([0.01 + 0.04 * step / 6 for step in range(6)], rel=1e-6)
    assert len(logged(trainer, "eval_gap")) == 3 and len(set(logged(trainer, "loss"))) == 6
    trained = [name for name, p in names["model"].named_parameters() if p.requires_grad]
    assert trained and all("deep_lora_" in name for name in trained)
    again = ContrastiveModel.from_pretrained("clip-small-gap")
    batch = Pairs(9, 2).batch()
    assert torch.equal(again(**batch).logits, names["model"].eval()(**batch).logits)


def test_the_block_imports_only_what_there_is() -> None:
    assert {"ContrastiveModel", "ModalityGapCallback"} <= set(modality.__all__)
    assert "from modality import" in documented_block()
