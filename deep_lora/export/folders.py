"""Reads an adapter folder that nobody vouches for: safetensors only, headers checked before anything is allocated.

Nothing in the folder is executed or unpickled, links that lead out of it are refused, and every tensor's claimed size
must be what the file holds, so that memory stays within the size of the file.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import UsageError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
MAX_CONFIG_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 24
MAX_NAME_LENGTH = 1024
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U8": 1, "BOOL": 1,
}  # fmt: skip


class AdapterFiles(NamedTuple):
    """The fields of the config, and every tensor by its name in the file."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    bytes: int


def read_adapter(folder: Path) -> AdapterFiles:
    """Config and tensors of a saved adapter.

    Raises:
        UsageError: the folder is none, a file is missing, too large, a link that leads out of the folder, a pickle, or
            not what it says it is. The text names the file and what is wrong.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    config = read_config(_inside(folder, CONFIG))
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise UsageError(f"{folder / PICKLED} is a pickle, which can run code when it is read; save it as safetensors")
    path = _inside(folder, WEIGHTS)
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error
    return AdapterFiles(config, tensors, path.stat().st_size)


def read_config(path: Path) -> dict[str, Any]:
    """The fields of an adapter's config.

    Raises:
        UsageError: the file is too large, or holds no JSON object with a `peft_type`.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} has {path.stat().st_size:,} bytes; a config has at most {MAX_CONFIG_BYTES:,}")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} holds no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise UsageError(f"{path} is no adapter's config: it must hold an object with a text `peft_type`")
    return config


def check_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, if every tensor that it promises is there, and nothing else.

    Raises:
        UsageError: the header is larger than the file or than allowed, is no JSON object, or describes tensors that
            overlap, leave gaps, or are not as large as their shape says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise UsageError(f"{path} has {size} bytes, too few for a safetensors file")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise UsageError(
                f"{path} claims a header of {length:,} bytes; the file has {size:,}, and at most {MAX_HEADER_BYTES:,} "
                "are read"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the header of {path} holds no JSON: {error}") from error
    if not isinstance(header, dict):
        raise UsageError(f"the header of {path} holds a {type(header).__name__}; it must map names to tensors")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    expected = 0
    for begin, end in spans:
        if begin != expected:
            raise UsageError(
                f"the tensors in {path} overlap or leave a gap at byte {expected}; the file was tampered with"
            )
        expected = end
    if expected != size - 8 - length:
        raise UsageError(f"{path} holds {size - 8 - length:,} bytes of tensors, its header describes {expected:,}")
    return header


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Begin and end of a tensor, if they are what its shape needs."""
    shown = repr(name[:60])
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise UsageError(f"{path} names a tensor {shown}...; names are printable, of at most {MAX_NAME_LENGTH} letters")
    try:
        shape, (begin, end), item = list(entry["shape"]), entry["data_offsets"], _ITEM_BYTES[entry["dtype"]]
        numbers = [*shape, begin, end]
        if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers) or len(shape) > 8:
            raise ValueError("sizes must be whole numbers, not negative, and at most 8")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} describes no tensor of a known kind under {shown} ({error})") from error
    if end - begin != item * math.prod(shape):
        raise UsageError(
            f"{path} claims shape {shape} for {shown}, which needs {item * math.prod(shape):,} bytes, and gives it "
            f"{end - begin:,}"
        )
    return begin, end


def _inside(folder: Path, name: str) -> Path:
    """A file of the folder; a link may lead only into the cache of the Hub that the folder belongs to."""
    path = folder / name
    if not path.is_file():
        raise UsageError(f"{folder} has no {name}; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    target, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs"
    if not target.is_relative_to(home) and not target.is_relative_to(blobs):
        raise UsageError(f"{path} is a link that leads out of its folder; copy the file there if you trust it")
    return path
