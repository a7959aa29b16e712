"""A page of the site for each module that exports names, with what its `__all__` lists and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("deep_lora", "dmf", "collapse", "modality", "evaluation_hooks", "training")
OWN_SCRIPTS = ("training",)  # below whose top is exported what our own scripts use


def exported() -> dict[str, list[str]]:
    """Return the public modules and the names that they export, packages first."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py"), key=lambda path: (path.name != "__init__.py", path)):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts).removesuffix(".__init__")
            names = exports_of(path)
            if names and (module == package or package not in OWN_SCRIPTS):
                found[module] = names
    return dict(sorted(found.items(), key=lambda item: (PACKAGES.index(item[0].split(".")[0]), item[0])))


def exports_of(path: Path) -> list[str]:
    """Return what the `__all__` of a file lists."""
    for statement in ast.parse(path.read_text(encoding="utf8")).body:
        if isinstance(statement, ast.Assign) and any(getattr(one, "id", "") == "__all__" for one in statement.targets):
            return list(ast.literal_eval(statement.value))
    return []


def page_of(module: str, names: list[str]) -> str:
    """Return the text of a module's page, for mkdocstrings."""
    listed = "".join(f"\n        - {name}" for name in names)
    return f"# `{module}`\n\n::: {module}\n    options:\n      show_root_heading: false\n      members:{listed}\n"


def on_config(config: Any) -> Any:
    """Put the pages into the navigation, where it says `api/`."""
    pages = [{module: f"api/{module}.md"} for module in exported()]
    config.nav = _with_pages(config.nav, pages)
    return config


def _with_pages(nav: list[Any], pages: list[Any]) -> list[Any]:
    found = []
    for entry in nav:
        for title, value in entry.items():
            found.append(
                {title: pages if value == "api/" else _with_pages(value, pages) if type(value) is list else value}
            )
    return found


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    from mkdocs.structure.files import File

    for module, names in exported().items():
        files.append(File.generated(config, f"api/{module}.md", content=page_of(module, names)))
    return files
