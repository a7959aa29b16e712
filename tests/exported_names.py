"""Which imports take from another package of this repository what it does not export.

A module exports what its `__all__` names; one without `__all__` exports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def unexported_imports(root: Path, folder: str, packages: set[str]) -> Iterator[str]:
    """Yield `file:line: name` for every import from another package's module that does not export it."""
    others = packages - {folder.split("/")[0]}
    for path in sorted((root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            for module, name in _imported(node):
                if module.split(".")[0] in others and not _is_exported(root, module, name):
                    where = f"{path.relative_to(root)}:{node.lineno}"  # type: ignore[attr-defined]
                    yield f"{where}: {module}{f'.{name}' if name else ''} is not exported"


def _imported(node: ast.AST) -> list[tuple[str, str | None]]:
    """Modules and names of an import statement; the name is None for `import module`."""
    if isinstance(node, ast.Import):
        return [(alias.name, None) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [(node.module, alias.name) for alias in node.names]
    return []


def _is_exported(root: Path, module: str, name: str | None) -> bool:
    exported = _exported(root, module)
    if name is None or name == "*":
        return exported is not None
    return name in (exported or ()) or _exported(root, f"{module}.{name}") is not None  # an exported submodule


@cache
def _exported(root: Path, module: str) -> frozenset[str] | None:
    """What the `__all__` of a module names; None without one."""
    stem = root.joinpath(*module.split("."))
    path = next((path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)
    if path is None:
        return None
    for node in ast.parse(path.read_text(encoding="utf8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return frozenset(ast.literal_eval(node.value))
    return None
