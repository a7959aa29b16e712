"""Examples are files to copy: short, on their own, and made of public names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.examples import cases

SCRIPTS = sorted(cases.EXAMPLES.glob("*.py"))
PACKAGES = ("collapse", "deep_lora", "dmf", "modality", "training")


def imported(path: Path) -> list[tuple[str, str | None]]:
    """(module, name) of everything that a file imports; the name is None for `import module`."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def test_there_are_examples() -> None:
    assert len(SCRIPTS) >= 10


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_has_at_most_150_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf8").splitlines()) <= 150


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_imports_public_names_and_no_other_example(path: Path) -> None:
    others = {other.stem for other in SCRIPTS}
    for module, name in imported(path):
        assert module.split(".")[0] not in others
        if module.split(".")[0] in PACKAGES:
            public = importlib.import_module(module).__all__
            assert name is None or name in public, f"{module}.{name}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_attribute_of_a_package_is_a_public_name(path: Path) -> None:
    packages = {module for module, name in imported(path) if name is None and module in PACKAGES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in packages:
            assert node.attr in importlib.import_module(node.value.id).__all__


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_page_tells_what_an_example_is_for(path: Path) -> None:
    assert f"`{path.name}`" in (cases.EXAMPLES / "README.md").read_text(encoding="utf8")
