"""Where the repository is, and which packages and modules are public in it."""

from __future__ import annotations

import ast
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def packages() -> list[str]:
    """Return the top-level packages that setup.cfg lists."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf8")
    found = [name for name in setup["options"]["packages"].split() if "." not in name]
    assert found
    return found


def exported_modules(package: str) -> list[str]:
    """Return the modules of a package that say what is public in them: those that define `__all__`."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf8")).body
        targets = [target for statement in body if isinstance(statement, ast.Assign) for target in statement.targets]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return found
