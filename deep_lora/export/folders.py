"""Adapter folders: read one that nobody vouches for, and write one that is complete or not there.

Nothing in a folder that is read is executed or unpickled, links that lead out of it are refused, and every tensor's
claimed size must be what the file holds, so that memory stays within the size of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deep_lora.export.target_names import PREFIX
from deep_lora.files import FACTOR_NAMES, AdapterFileError, check_unbounded, read_shapes
from deep_lora.trainable import TRAINABLE, trainable_folder
from dmf.files import complete_file

MAX_CONFIG_BYTES = 1 << 20
_NEEDED = f"an adapter is a folder with {CONFIG_NAME} and {SAFETENSORS_WEIGHTS_NAME}"


class AdapterFiles(NamedTuple):
    """The fields of the config, and every tensor by its name in the file."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    bytes: int

    @property
    def peft_type(self) -> str:
        """The method by its name in PEFT, as `LORA`."""
        return self.config["peft_type"].upper()


def read_adapter(folder: Path, *, root: bool = False) -> AdapterFiles:
    """Read config and tensors of a saved adapter; of one with a plain LoRA at its root, those of its Deep LoRA.

    Args:
        folder: of the adapter.
        root: read what lies at the root in any case.

    Raises:
        AdapterFileError: not a folder, or a file is missing, too large, a link that leads out of the folder, a pickle,
            or not what it says it is, or the updates were bounded by an earlier version. The text says what is wrong.
    """
    if not folder.is_dir():
        raise AdapterFileError(f"{folder} is not a folder; {_NEEDED}")
    home, folder = folder, folder if root else trainable_folder(folder)
    config = read_config(_inside(folder, CONFIG_NAME, home))
    if not (folder / SAFETENSORS_WEIGHTS_NAME).exists() and (folder / WEIGHTS_NAME).exists():
        raise AdapterFileError(
            f"{folder / WEIGHTS_NAME} is a pickle, which can run code when it is read; save it as safetensors"
        )
    path = _inside(folder, SAFETENSORS_WEIGHTS_NAME, home)
    check_unbounded(str(path), read_shapes(path))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise AdapterFileError(f"{path} is not a readable safetensors file: {error}") from error
    if any(tensor.is_complex() for tensor in tensors.values()):
        raise AdapterFileError(f"{path} holds complex numbers; the tensors of an adapter must be real")
    factors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] in FACTOR_NAMES}
    whole = [name for name, tensor in factors.items() if not tensor.is_floating_point()]
    if whole:
        raise AdapterFileError(
            f"{path} holds whole numbers for {whole[0][:80]!r}; the factors of an update must be floating-point numbers"
        )
    return AdapterFiles(config, tensors, path.stat().st_size)


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields of an adapter's config.

    Raises:
        AdapterFileError: the file is too large, or does not hold a JSON object with a `peft_type`.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterFileError(f"{path} has {path.stat().st_size:,} bytes; a config has at most {MAX_CONFIG_BYTES:,}")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterFileError(f"{path} is not an adapter's config: it must be an object whose `peft_type` is a text")
    return config


def check_alone(folder: Path) -> None:
    """Raise if a folder has a Deep LoRA adapter in its subfolder, which a new LoRA at its root would not belong to.

    Raises:
        FileExistsError: it has.
    """
    if (folder / TRAINABLE / CONFIG_NAME).is_file():
        raise FileExistsError(
            f"{folder} has a Deep LoRA adapter in its subfolder {TRAINABLE}, which would be trained further instead "
            "of this LoRA; choose another folder, or save both with `save_pretrained(folder, lora_at_root=True)`"
        )


def write_adapter(folder: Path, fields: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config and weights, which replace those that are there only when both are complete.

    Args:
        folder: is made if it does not exist.
        fields: of the config, in the terms of JSON but for sets and enumerations.
        tensors: by their names in the model; they may share memory.
    """
    for name in ("target_modules", "exclude_modules"):  # their order means nothing
        if isinstance(fields.get(name), (list, set)):
            fields = fields | {name: sorted(fields[name], key=str)}
    named = {
        name if name.startswith(PREFIX) else PREFIX + name: tensor.detach().cpu() for name, tensor in tensors.items()
    }
    separate = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in named.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with complete_file(folder / SAFETENSORS_WEIGHTS_NAME) as weights, complete_file(folder / CONFIG_NAME) as config:
        save_file(separate, weights, metadata={"format": "pt"})
        text = json.dumps(fields, indent=2, sort_keys=True, default=_as_json)
        config.write_text(text + "\n", encoding="utf-8")


def _as_json(value: object) -> object:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))


def _inside(folder: Path, name: str, root: Path) -> Path:
    """A file of the folder; a link may lead only into the cache of the Hub that the root belongs to."""
    path = folder / name
    if not path.is_file():
        raise AdapterFileError(f"{folder} has no {name}; {_NEEDED}")
    target, home = path.resolve(), root.resolve()
    blobs = [parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in (home, *blobs)):
        raise AdapterFileError(f"{path} is a link that leads out of its folder; copy the file there if you trust it")
    return path
