"""Digests of what a run learns from: its data, base models and adapter. No path of this machine goes into them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image

_ROWS = 10_000  # read at a time
_BLOCK = 4096
_BLOCKS_OF_IMAGES, _BLOCKS_OF_FILES = 3, 256
# The configurations, the tokenizer and the weights that a folder with a model holds, and nothing that a run adds.
_OF_MODELS = (
    "*config.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "*.jinja",
    "*.model",
    "*.safetensors",
    "*.bin",
    "*.gguf",
)


def of_data(split: Dataset) -> str:
    """Digest all columns of the rows, in their order, wherever the data lie.

    Images are not decoded: of one in a file count its name, its size and blocks at its start, middle and end.
    """
    digest = hashlib.sha256()
    images = {name for name, feature in split.features.items() if isinstance(feature, Image)}
    others = [name for name in split.column_names if name not in images]
    for table in split.with_format("arrow").iter(batch_size=_ROWS):
        _update(digest, table.select(others))
        for name in sorted(images):
            for image in table.column(name).to_pylist():
                digest.update(b"".join(_of_image(image)))
    return digest.hexdigest()


def of_models(names: Mapping[str, str]) -> str:
    """Digest the models by their part in the run: the name of one on the Hub, and what a folder holds, not where it is.

    Of a large file count the size and blocks all over it, so that this is quick and other weights are seen.
    """
    digest = hashlib.sha256()
    for part, name in sorted(names.items()):
        digest.update(f"{part} ".encode())
        folder = Path(name)
        if not folder.is_dir():
            digest.update(name.encode())
            continue
        for path in sorted({path for pattern in _OF_MODELS for path in folder.glob(pattern) if path.is_file()}):
            digest.update(path.name.encode())
            digest.update(b"".join(_samples(path, _BLOCKS_OF_FILES)))
    return digest.hexdigest()


def of_fields(fields: dict[str, Any]) -> str:
    """Digest settings, in whatever order they come."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _update(digest: Any, table: pa.Table) -> None:
    """Update with rows as Arrow serializes them; they are copied first, so that nothing beside them is serialized."""
    digest.update(repr([(field.name, str(field.type)) for field in table.schema]).encode())
    copied = table.replace_schema_metadata(None).combine_chunks().take(np.arange(len(table)))
    for batch in copied.combine_chunks().to_batches():
        digest.update(batch.serialize())


def _of_image(image: dict[str, Any] | None) -> Iterator[bytes]:
    if image is None:
        yield b"none"
    elif image["bytes"] is not None:
        yield str(len(image["bytes"])).encode()
        yield image["bytes"]
    else:
        yield os.path.basename(image["path"]).encode()
        if os.path.isfile(image["path"]):  # not one in an archive, or far away
            yield from _samples(Path(image["path"]), _BLOCKS_OF_IMAGES)


def _samples(path: Path, count: int) -> Iterator[bytes]:
    """Yield the size of a file and blocks spread over it; all of it, if it has no more than so many blocks."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield f" {size} ".encode()
        for number in range(count):
            file.seek(max(0, size - _BLOCK) * number // max(1, count - 1))
            yield file.read(_BLOCK)
