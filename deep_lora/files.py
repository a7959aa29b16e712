"""Read the header of a safetensors file that nobody vouches for, and check a saved adapter by it."""

from __future__ import annotations

import json
import math
import os
import struct
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME

FACTOR_NAMES = ("deep_lora_U", "deep_lora_core", "deep_lora_V")
BOUND_NAME = "deep_lora_bound"  # of a tensor of earlier versions: the largest norm that an update could have
MAX_HEADER_BYTES = 1 << 24
MAX_NAME_LENGTH = 1024
_ITEM_BYTES = {
    "C64": 8, "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


class AdapterFileError(ValueError):
    """A saved adapter is damaged, hostile, or not of the kind that is needed; the message says what to do."""


def check_adapter_folder(folder: str | os.PathLike[str]) -> None:
    """Raise if `folder` holds an adapter file that is corrupt, inconsistent or bounded; only its header is read.

    PEFT puts an adapter into the model before it reads the weights, so a file that fails later leaves a changed model
    behind. A folder without the file passes (PEFT says where it looked).

    Raises:
        AdapterFileError: the message names the file, what is wrong and what to do.
    """
    path = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        return
    try:
        shapes = read_shapes(path)
    except (AdapterFileError, OSError) as error:
        raise AdapterFileError(
            f"{path} is not a usable safetensors file ({error}). If it is truncated or corrupt, copy or "
            "download it again; the model was not changed"
        ) from error
    check_unbounded(str(path), shapes)
    for module, found in factors_by_module(shapes).items():
        _check_module(path, module, found)


def check_unbounded(source: str, names: Iterable[str]) -> None:
    """Raise if tensors of these names belong to an adapter whose updates an earlier version has bounded.

    Raises:
        AdapterFileError: the message names the source of the tensors, and says what to do.

    >>> check_unbounded("a file", ["layer.0.deep_lora_U", "layer.0.deep_lora_core", "layer.0.deep_lora_V"])
    """
    bounded = [name for name in names if BOUND_NAME in name.split(".")]
    if bounded:
        raise AdapterFileError(
            f"{source} holds {bounded[0][:200]!r}, a bound on an update (`max_update_norm`), which this version of "
            "deep_lora cannot compute; export the adapter with `save_as_lora` of the version that saved it, or train "
            "it again"
        )


def read_shapes(path: Path) -> Shapes:
    """Return the shape of every tensor of a safetensors file, from its header alone.

    The header is believed only if every tensor that it describes is in the file, and nothing else.

    Raises:
        AdapterFileError: the header is larger than the file or than allowed, is not a JSON object, or describes tensors
            that overlap, leave gaps, or are not as large as their shape says.
    """
    size = path.stat().st_size
    header, start = _read_header(path, size)
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise AdapterFileError(f"the metadata in the header of {path} must map names to texts")
    shapes, spans = {}, []
    for name, entry in header.items():
        shapes[name], span = _check_entry(path, name, entry)
        spans.append(span)
    expected = 0
    for begin, end in sorted(spans):
        if begin != expected:
            raise AdapterFileError(
                f"the tensors in {path} overlap or leave a gap at byte {expected}; the file was tampered with"
            )
        expected = end
    if expected != size - start:
        raise AdapterFileError(f"{path} holds {size - start:,} bytes of tensors, its header describes {expected:,}")
    return shapes


def factors_by_module(shapes: Shapes) -> dict[str, Shapes]:
    """Return the shapes of U, the cores and V, as far as they are there, for each adapted module.

    >>> factors_by_module({"layer.0.deep_lora_U": (6, 2), "layer.0.deep_lora_V": (5, 2), "head.weight": (2, 6)})
    {'layer.0': {'deep_lora_U': (6, 2), 'deep_lora_V': (5, 2)}}
    """
    modules: dict[str, Shapes] = defaultdict(dict)
    for key, shape in shapes.items():
        module, _, name = key.rpartition(".")
        if name in FACTOR_NAMES:
            modules[module][name] = shape
    return dict(modules)


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header, and the byte at which the tensors begin."""
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise AdapterFileError(f"{path} has {size} bytes, too few for a safetensors file")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise AdapterFileError(
                f"{path} claims a header of {length:,} bytes; the file has {size:,}, and at most {MAX_HEADER_BYTES:,} "
                "are read"
            )
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"the header of {path} is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise AdapterFileError(f"the header of {path} holds a {type(header).__name__}; it must map names to tensors")
    return header, 8 + length


def _check_entry(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The shape of a tensor, and the bytes in which it lies, if they are as many as the shape needs."""
    shown = repr(name[:60])
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise AdapterFileError(
            f"{path} names a tensor {shown}...; a name must be printable, with at most {MAX_NAME_LENGTH} characters"
        )
    try:
        shape, (begin, end), item = list(entry["shape"]), entry["data_offsets"], _ITEM_BYTES[entry["dtype"]]
        numbers = [*shape, begin, end]
        if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers) or len(shape) > 8:
            raise ValueError("sizes must be whole numbers, not negative, and at most 8")
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterFileError(f"{path} describes no valid tensor under {shown} ({error})") from error
    if end - begin != item * math.prod(shape):
        raise AdapterFileError(
            f"{path} claims shape {shape} for {shown}, which needs {item * math.prod(shape):,} bytes, but gives it "
            f"{end - begin:,}"
        )
    return tuple(shape), (begin, end)


def _check_module(path: Path, module: str, found: Shapes) -> None:
    missing = [name for name in FACTOR_NAMES if name not in found]
    if missing:
        raise AdapterFileError(
            f"{path} has no {', '.join(missing)} for module {module}: the adapter is incomplete. Save it again with "
            "`save_pretrained`; the model was not changed"
        )
    ranks = {found["deep_lora_U"][-1:], found["deep_lora_V"][-1:], found["deep_lora_core"][-1:]}
    if len(ranks) > 1 or found["deep_lora_core"][-1:] != found["deep_lora_core"][-2:-1]:
        raise AdapterFileError(
            f"{path} holds tensors of different ranks for module {module}: {found}; expected U (out, r), core "
            "(n, r, r) and V (in, r). The file was edited or mixed up; the model was not changed"
        )
