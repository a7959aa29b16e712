"""One file of tensors and settings: safetensors with JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dmf.files import complete_file


def write_file(path: str | os.PathLike[str], kind: str, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Write tensors and JSON content to one file.

    The file appears complete or not at all (see `complete_file`).

    Args:
        kind: what the file is, checked by `read_file`.
        tensors: by name; they may share memory.
        content: what `json.dumps` takes, or numpy numbers.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    separate = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with complete_file(target) as partial:
        save_file(separate, partial, metadata={"kind": kind, "content": json.dumps(content, default=_plain)})


def read_file(path: str | os.PathLike[str], kind: str, device: str = "cpu") -> tuple[dict[str, Tensor], Any]:
    """Read the tensors and the content that `write_file` wrote; nothing in the file is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"file not found: {path}; pass the path the model was saved to")
    try:
        with safe_open(path, framework="pt", device=str(torch.device(device))) as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or it is damaged ({error}); save it again") from error
    if header.get("kind") != kind:
        raise ValueError(f"{path} holds {header.get('kind', 'something else')!r}, but {kind!r} is needed")
    return tensors, json.loads(header["content"])


def _plain(number: Any) -> Any:
    """Convert a numpy number to one of Python's."""
    if not isinstance(number, np.generic):
        raise TypeError(
            f"{type(number).__name__} cannot be written as JSON; pass numbers, strings, lists or dictionaries"
        )
    return number.item()
