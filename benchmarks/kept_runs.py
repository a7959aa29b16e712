"""Results that grow run by run, so that a long benchmark can be stopped and started again."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.result_files import read_json, versions, write_json


class KeptRuns:
    """A JSON file of finished runs, by key."""

    def __init__(self, path: Path, settings: dict) -> None:
        self.path, self.settings = path, settings
        self.runs: dict[str, dict] = {}
        if path.is_file():
            stored = read_json(path)
            if stored["settings"] != settings:
                raise SystemExit(f"{path} was made with other settings; choose another --output, or remove it")
            self.runs = stored["runs"]

    def save(self, **more: object) -> None:
        found = versions("torch", "numpy", "scipy")
        write_json(self.path, {"settings": self.settings, "versions": found, "runs": self.runs, **more})


class RunFolder:
    """A folder with a file for each finished run: several processes may share a benchmark, and any may be killed.

    Args:
        path: the folder; each set of settings has a folder of its own inside.
        settings: what all the runs have in common.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        digest = blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
        self.path = path / digest
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "settings.json", settings)
        self._read: dict[str, dict[str, Any]] = {}

    def kept(self, key: str) -> dict[str, Any] | None:
        """Return a finished run, or None."""
        file = self._file(key)
        if key not in self._read and file.is_file():
            self._read[key] = read_json(file)
        return self._read.get(key)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Tell whether this process may do the run; the claim ends with the block, or with the process."""
        with self._file(key).with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def keep(self, key: str, run: dict[str, Any]) -> None:
        """Write a finished run."""
        write_json(self._file(key), run)

    def _file(self, key: str) -> Path:
        name = "".join(character if character.isalnum() or character in "+-" else "_" for character in key)
        return self.path / f"{name}.json"
