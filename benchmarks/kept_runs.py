"""A result file that grows run by run, so that a long benchmark can be stopped and started again."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path


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
