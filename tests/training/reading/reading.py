"""Reading a file or a folder in a test: rows, or the sentence that refuses it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from training.errors import UsageError
from training.reading.kinds import Kind, class_name, text
from training.reading.sources import read_source
from training.reading.tables import Wanted
from training.settings.data import FileArguments


def wanted(**kinds: Kind) -> list[Wanted]:
    return [Wanted(name, kind, f"--{name}_column") for name, kind in kinds.items()]


TEXTS = wanted(text=text, label=class_name)


def saved(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(folder / name)
    return folder


def columns(path: Path, columns=None, split: str = "train", images: bool = False, **options) -> dict[str, list]:
    """The wanted columns of a split."""
    data = read_source(str(path), FileArguments(**options), images=images)[split](TEXTS if columns is None else columns)
    return {name: data[name][:] for name in data.column_names}


def refusal(path: Path, wanted=None, **options) -> str:
    """The sentence with which a file is refused, without the folder it lies in."""
    try:
        found = columns(path, wanted, **options)
    except UsageError as error:
        return str(error).replace(f"{path.parent}/", "")
    raise AssertionError(f"read: {found}")
