"""Results that grow run by run, so that a long benchmark can be stopped and started again."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any


class KeptRuns:
    """A JSON file of finished runs, by key."""

    def __init__(self, path: Path, settings: dict) -> None:
        self.path, self.settings = path, settings
        self.runs: dict[str, dict] = {}
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf8"))
            if stored["settings"] != settings:
                raise SystemExit(f"{path} was made with other settings; name another --output, or remove it")
            self.runs = stored["runs"]

    def save(self, **more: object) -> None:
        packages = ("torch", "numpy", "scipy")
        content = {
            "settings": self.settings,
            "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
            "runs": self.runs,
            **more,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")


class RunFolder:
    """A folder with a file for each finished run: several processes may share in a benchmark, and any may be killed.

    Args:
        path: the folder; every set of settings has one of its own inside.
        settings: what all the runs have in common.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
        self.path = path / digest
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf8")
        self._read: dict[str, dict[str, Any]] = {}

    def kept(self, key: str) -> dict[str, Any] | None:
        """A finished run; None if it is not."""
        file = self._file(key)
        if key not in self._read and file.is_file():
            self._read[key] = json.loads(file.read_text(encoding="utf8"))
        return self._read.get(key)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether this process may do the run; the claim ends with the block, or with the process."""
        with self._file(key).with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def keep(self, key: str, run: dict[str, Any]) -> None:
        """Writes a finished run, whole or not at all."""
        partial = self._file(key).with_suffix(".partial")
        partial.write_text(json.dumps(run, indent=1) + "\n", encoding="utf8")
        os.replace(partial, self._file(key))

    def _file(self, key: str) -> Path:
        name = "".join(character if character.isalnum() or character in "+-" else "_" for character in key)
        return self.path / f"{name}.json"
