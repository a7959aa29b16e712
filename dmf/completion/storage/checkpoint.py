"""Training checkpoints, from which an interrupted fit resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from dmf.completion.model import CompletionModel, Trained
from dmf.completion.storage.files import read_file, write_file
from dmf.completion.training import Progress
from dmf.observed import ObservedEntries

KIND = "dmf.MatrixCompletion checkpoint"
NOT_DECISIVE = ("checkpoint", "checkpoint_every", "verbose", "device")


def fingerprint(settings: Mapping[str, Any], entries: ObservedEntries, start: Trained | None) -> str:
    """Digest settings, data and, for a warm start, the initial parameters; it is equal for the same training.

    Of a generator as `random_state` only its type counts; the seed drawn from it is in the checkpoint.
    """
    decisive = {name: repr(value) for name, value in settings.items() if name not in NOT_DECISIVE}
    if not isinstance(settings["random_state"], (int, np.integer, NoneType)):
        decisive["random_state"] = type(settings["random_state"]).__name__
    digest = hashlib.sha256(json.dumps([decisive, entries.shape], sort_keys=True).encode())
    tensors = [entries.pattern.row_pointers, entries.pattern.columns, entries.values]
    tensors += [] if entries.weights is None else [entries.weights]
    tensors += [start.rows, start.cols, *start.model.state_dict().values()] if start else []
    for tensor in tensors:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def checkpoint_seed(path: str, digest: str) -> int | None:
    """Return the seed of the training in the checkpoint, or None if there is no checkpoint.

    Raises:
        ValueError: if the checkpoint belongs to other settings or data.
    """
    if not Path(path).exists():
        return None
    _, content = read_file(path, KIND)
    if content["fingerprint"] != digest:
        raise ValueError(
            f"the checkpoint {path} belongs to a fit with other settings or other data; delete it to start again, or "
            "pass another path"
        )
    return content["seed"]


def write_checkpoint(
    path: str, digest: str, seed: int, model: CompletionModel, optimizer: Optimizer, progress: Progress
) -> None:
    """Write everything that decides how the training continues to one file."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best_state.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    content = {
        "fingerprint": digest,
        "seed": seed,
        "epoch": progress.epoch,
        "history": progress.history,
        "best": [progress.best_epoch, progress.best_rmse],
    }
    write_file(path, KIND, tensors, content)


def read_checkpoint(path: str, model: CompletionModel, optimizer: Optimizer) -> Progress:
    """Restore model and optimizer from the checkpoint, and return its progress."""
    tensors, content = read_file(path, KIND)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    device = model.row_bias.device
    best_state = {name: tensor.to(device) for name, tensor in part("best.").items()}
    best_epoch, best_rmse = content["best"]
    return Progress(content["epoch"], content["history"], best_epoch, best_rmse, best_state)
