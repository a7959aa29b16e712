"""The folder that a run writes to: that it can, that it holds no other run, and what is said if it cannot any more."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from training.errors import RunError, UsageError
from training.job import plain
from training.names import RESULTS
from training.trainer.checkpoints import all_checkpoints
from training.trainer.digests import of_fields
from training.trainer.resuming import identifying

_OF_TORCH = re.compile("PytorchStreamWriter|inline_container|iostream error")  # when torch.save cannot write
IDENTITY = "identity"  # in results.json: a digest of what decides the results


def require_writable(folder: Path, option: str = "--output_dir") -> None:
    """Raise if the folder is not there and cannot be made, or cannot be written to; nothing is made.

    Args:
        folder: in which files will be.
        option: that named it, or a file in it.

    Raises:
        UsageError: there is a file where a folder should be.
        RunError: it cannot be written to.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{option} got {folder}, but {place} is a file; pass the name of a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise RunError(f"{option} {folder} cannot be written to: {place} is read-only; pass another folder")


def refuse_other_run(folder: Path, command: str, identity: str) -> None:
    """Raise if a folder holds the results of another run, which would be overwritten.

    Args:
        folder: of the run that is about to begin.
        command: of that run.
        identity: what decides its results, as in its `results.json`.

    Raises:
        UsageError: the text names the command of the other run.
    """
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except OSError:
        if command != "complete" or not all_checkpoints(folder):
            return
        found = {"command": "another command"}
    except ValueError:
        found = {}
    if not isinstance(found, dict) or found.get("status") == "stopped" or found.get(IDENTITY) == identity:
        return
    raise UsageError(
        f"{folder} holds the results of another run ({found.get('command', 'unknown')}, with other settings or data); "
        "pass another --output_dir, or --overwrite to replace them"
    )


@contextmanager
def saving(what: str, kept: str) -> Iterator[None]:
    """Turn a disk that is full or fails into a sentence.

    Args:
        what: is written.
        kept: what there is if it cannot be written.

    Raises:
        RunError: it cannot be written.

    >>> with saving("the model", "nothing is kept"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    training.errors.RunError: the model cannot be written: No space left on device; nothing is kept
    """
    try:
        yield
    except (UsageError, RunError):
        raise
    except Exception as error:
        if not is_of_writing(error):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RunError(f"{what} cannot be written: {reason}; {kept}") from error


def is_of_writing(error: Exception) -> bool:
    """Tell whether an error is one of a file that cannot be written: tokenizers raises nothing but `Exception`."""
    return (
        isinstance(error, (OSError, SafetensorError)) or type(error) is Exception or bool(_OF_TORCH.search(str(error)))
    )


def identity_of(facts: Any) -> str:
    """Return the digest of what decides a run; equal for equal facts.

    >>> identity_of({"a": 1, "b": 2}) == identity_of({"b": 2, "a": 1})
    True
    """
    return of_fields({"facts": facts})


def run_identity(facts: dict[str, Any]) -> str:
    """Return the digest of what decides a run, from the facts that its checkpoints keep."""
    return identity_of(plain(identifying(facts)))
