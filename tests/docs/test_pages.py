"""The pages in `docs/`: their code runs, and they name what there is, all of it, with the right defaults."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT, exported_modules

DOCS = ROOT / "docs"
METHODS = ("collapse", "deep_lora", "dmf", "modality")
PACKAGES = (*METHODS, "training")
TABLE_HEAD = re.compile(r"^\| option of `([\w.]+)` \| default \|", re.M)


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf8")


def code_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(page), re.S)


def option_tables() -> list[tuple[str, str, dict[str, str]]]:
    """(page, what the options are of, option -> default as written) of every such table."""
    found = []
    for page in METHODS:
        text = text_of(page)
        for head in TABLE_HEAD.finditer(text):
            rows = text[head.start() :].split("\n\n")[0].splitlines()[2:]
            cells = [[cell.strip().strip("`") for cell in row.split("|")[1:3]] for row in rows]
            found.append((page, head[1], dict(cells)))
    return found


def defaults_of(function: Any) -> dict[str, Any]:
    """Every argument and its default; those that must be given have none."""
    if dataclasses.is_dataclass(function):
        factories = {f.name: f.default_factory() for f in dataclasses.fields(function) if callable(f.default_factory)}
    else:
        factories = {}
    parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters.values()
    named = [p for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
    return {p.name: factories.get(p.name, p.default) for p in named}


def headings_of(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf8"), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", METHODS)
def test_the_code_of_a_page_runs_from_top_to_bottom(page: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text_of(page), re.S)
    assert blocks and any("assert" in block for block, _ in blocks)
    names: dict[str, Any] = {"__name__": f"docs.{page}"}
    for number, (block, shown) in enumerate(blocks, start=1):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, f"{page}.md, block {number}", "exec"), names)
        assert printed.getvalue() == shown or not shown


@pytest.mark.parametrize("page", ["collapse", "dmf", "modality"])
def test_a_page_opens_with_five_lines_whose_output_is_shown_and_a_picture(page: str) -> None:
    text, block = text_of(page), code_of(page)[0]
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 5
    assert f"{block}```\n\n```text\n" in text and text.index(block) < text.index("![") < text.index("\n## ")


@pytest.mark.parametrize("page", METHODS)
def test_the_first_block_of_a_page_needs_nothing_before_it(page: str) -> None:
    tree = ast.parse(code_of(page)[0])
    assert any(isinstance(node, ast.ImportFrom) and node.module == page for node in tree.body)


def public_modules(package: str) -> list[str]:
    """The modules that users import from; what `training` exports below its top is for our own scripts."""
    return exported_modules(package) if package in METHODS else [package]


@pytest.mark.parametrize("page", PACKAGES)
def test_a_page_names_every_public_name_of_its_package(page: str) -> None:
    public = [name for module in public_modules(page) for name in importlib.import_module(module).__all__]
    assert public and [name for name in public if not re.search(rf"\b{name}\b", text_of(page))] == []


@pytest.mark.parametrize(
    ("page", "name", "written"), option_tables(), ids=lambda value: value if type(value) is str else ""
)
def test_a_table_of_options_names_exactly_the_options_with_their_defaults(page: str, name: str, written) -> None:
    defaults = defaults_of(getattr(importlib.import_module(page), name))
    assert list(written) == list(dict.fromkeys(written)) and set(written) == set(defaults)
    required = {option for option, default in defaults.items() if default is inspect.Parameter.empty}
    assert {option for option, default in written.items() if default == "needed"} == required
    for option in set(written) - required:
        assert ast.literal_eval(written[option]) == defaults[option], option


def test_every_method_has_a_table_of_options() -> None:
    tables = option_tables()
    assert {page for page, _, _ in tables} == set(METHODS)
    assert ("deep_lora", "DeepLoraConfig") in {(page, name) for page, name, _ in tables}


PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "examples/README.md", ROOT / "benchmarks/README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_leads_to_one(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf8")):
        assert anchor in headings_of((page.parent / target) if target else page), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_can_be_pasted(page: Path) -> None:
    """`<name>` would be a redirection for the shell, and `...` an argument; only variables are left to fill in."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf8"), re.S):
        commands = [line.split(" # ")[0] for line in block.splitlines()]
        assert [line for line in commands if re.search(r"<\w|(?<!=)\.\.\.", line)] == []


def test_the_index_links_the_page_of_every_package_and_names_the_package() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", text_of("index")))
    assert {f"{package}.md" for package in PACKAGES} <= linked
    assert all(f"`{package}`" in text_of("index") for package in PACKAGES)
