"""Settings in YAML and JSON files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from training.errors import UsageError

_FLOAT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number, as in YAML 1.2, and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice!r} appears twice; keep one of them")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def read_mapping(path: Path) -> Any:
    """Read a YAML or JSON file, with or without a byte order mark.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        return json.loads(text, object_pairs_hook=_once)
    return yaml.load(text, _Loader)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} appears twice; keep one of them")
    return dict(pairs)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the options in a YAML or JSON file.

    Raises:
        UsageError: there is no such file, it does not parse, or it holds no mapping.
    """
    try:
        settings = read_mapping(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds a {type(settings).__name__}; it must map names of options to values")
    return settings
