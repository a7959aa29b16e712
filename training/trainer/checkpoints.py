"""Checkpoints that are complete or not there: a temporary folder, a manifest, fsync, and one rename.

A folder `checkpoint-N` exists only under its final name when everything in it is on the disk, and
`manifest.json` in it lists every file with its size and digest, so that later damage is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from training.names import CHECKPOINT, MANIFEST, PARTIAL


def publish(partial: Path, final: Path, facts: dict[str, Any]) -> None:
    """Make a finished folder a checkpoint: manifest, fsync of all that is in it, rename.

    Args:
        partial: the folder, on the same file system.
        final: its name as a checkpoint; an earlier one of that name is replaced.
        facts: whatever else belongs in the manifest.
    """
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    entries = {path.relative_to(partial).as_posix(): _fingerprint(path) for path in files}
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": entries}, indent=1) + "\n", encoding="utf-8")
    for path in [*files, manifest]:
        _sync(path)
    for folder in [path for path in partial.rglob("*") if path.is_dir()] + [partial]:
        _sync(folder)
    if final.exists():
        shutil.rmtree(final)
    os.rename(partial, final)
    _sync(final.parent)


def damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint, or None if every file is what the manifest says."""
    try:
        manifest = read_manifest(checkpoint)
        for name, expected in manifest["files"].items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if _fingerprint(path) != expected:
                return f"{name} has changed"
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))


def newest_complete(folder: Path) -> Path | None:
    """Return the latest checkpoint that is whole; damaged ones are skipped with a warning."""
    for checkpoint in reversed(all_checkpoints(folder)):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        warnings.warn(f"{checkpoint.name} is not used, for {wrong}; looking for an earlier one", stacklevel=2)
    return None


def all_checkpoints(folder: Path) -> list[Path]:
    """Return the folders called checkpoint-N, by N."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if path.name[len(CHECKPOINT) :].isdecimal()]
    return sorted(filter(Path.is_dir, found), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the N of checkpoint-N."""
    return int(checkpoint.name[len(CHECKPOINT) :])


def rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Delete the oldest checkpoints over a limit; the newest and the best stay."""
    if not limit or limit < 1:
        return
    checkpoints = all_checkpoints(folder)
    keep = set(checkpoints[-1:])
    if best is not None:
        keep.add(folder / Path(best).name)
    spare = [path for path in checkpoints if path not in keep]
    for path in spare[: max(0, len(checkpoints) - max(limit, len(keep)))]:
        _remove(path)


def clear(folder: Path) -> None:
    """Delete every checkpoint, and what a killed run left unfinished."""
    for path in all_checkpoints(folder):
        _remove(path)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves nothing that looks like one."""
    doomed = checkpoint.parent / PARTIAL / f"deleted-{checkpoint.name}"
    doomed.parent.mkdir(exist_ok=True)
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(checkpoint, doomed)
    shutil.rmtree(doomed)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
        return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _digest(file: Any) -> Any:
    """Stand in for `hashlib.file_digest` in Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
