"""The files of settings and results: where they are, and how results are read and written."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dmf.files import complete_file

FOLDER = Path(__file__).resolve().parent
ROOT, SETTINGS, RESULTS = FOLDER.parent, FOLDER / "settings", FOLDER / "results"
LINE = 120  # characters that a record on one line may have
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")


def result(name: str) -> Any:
    """Read the result of that name."""
    return read_json(RESULTS / f"{name}.json")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8"))


def write_json(path: Path, content: Any) -> None:
    """Write a result, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as partial:
        partial.write_text(compact_json(content) + "\n", encoding="utf8")


def compact_json(content: Any, indent: int = 0) -> str:
    """Format JSON with flat lists and short records on one line each, and everything else indented by one space.

    >>> print(compact_json({"seeds": [0, 1], "runs": [{"seed": 0, "losses": [0.5] * 20}, {"seed": 1, "losses": []}]}))
    {
     "seeds": [0, 1],
     "runs": [
      {
       "seed": 0,
       "losses": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
      },
      {"seed": 1, "losses": []}
     ]
    }
    """
    inside: list[Any] = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(content, dict | list | tuple) or not inside:
        return json.dumps(content)
    line = json.dumps(content)
    flat = not isinstance(content, dict) and not any(isinstance(value, dict | list | tuple) for value in inside)
    if flat or len(line) + indent <= LINE and indent:
        return line
    texts = [compact_json(value, indent + 1) for value in inside]
    if isinstance(content, dict):
        texts = [f"{json.dumps(key)}: {text}" for key, text in zip(content, texts, strict=True)]
    opening, closing = "{}" if isinstance(content, dict) else "[]"
    spaces = " " * (indent + 1)
    return f"{opening}\n" + ",\n".join(spaces + text for text in texts) + f"\n{' ' * indent}{closing}"


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """What the figures depend on besides the settings."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": versions(*PACKAGES),
        "processor": _processor(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
