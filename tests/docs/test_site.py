"""The site: every page is in it, with the options of every command and every public name. `make docs` builds it."""

from __future__ import annotations

import configparser
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.paths import ROOT, exported_modules, packages
from training.cli import COMMANDS
from training.settings.parsing import build_parser

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf8"))


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from pages_of(value) if isinstance(value, list) else [value]


def test_the_navigation_has_every_page_once() -> None:
    made = {"api/", hook("command_line").PAGE, *hook("repository_pages").PAGES.values()}
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    notebooks = {f"notebooks/{path.name}" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    found = list(pages_of(SITE["nav"]))
    assert len(found) == len(set(found)) and set(found) == made | written | notebooks


def test_the_api_has_a_page_for_every_module_that_exports_names_and_shows_them_all() -> None:
    api, exported = hook("api_pages"), hook("api_pages").exported()
    modules = {name for package in packages() if package != "training" for name in exported_modules(package)}
    assert set(exported) == modules | {"training"}
    for module, names in exported.items():
        assert names == list(importlib.import_module(module).__all__)
        assert re.findall(r"^        - (\w+)$", api.page_of(module, names), re.M) == names


def test_the_navigation_gets_the_pages_of_the_api() -> None:
    config = hook("api_pages").on_config(type("Config", (), {"nav": SITE["nav"]}))
    found = list(pages_of(config.nav))
    assert "api/" not in found and "api/deep_lora.md" in found and "index.md" in found


def test_the_page_on_the_command_line_has_every_option_of_every_command_as_its_help_words_it() -> None:
    line = hook("command_line")
    text = line.page()
    assert all(f"\n## deep-lora {name}\n" in text for name in COMMANDS)
    for section in text.split("\n## ")[1:]:
        name = section.splitlines()[0].removeprefix("deep-lora ")
        types = getattr(importlib.import_module(line._module(name)), "TYPES", ()) if name != "configs" else ()
        own = {option for kind in types for option in line.own_options(kind)}
        helps = {action.dest: action.help for action in build_parser(types, name, "")._actions} if types else {}
        shown = re.findall(r"^\| `--(\w+)[^`]*` \| (.+) \|$", section, re.M)
        assert {option for option, _ in shown} == own and len(shown) == len(own)
        assert "early_stopping_patience" in own or name not in ("finetune", "classify", "contrastive", "compare")
        for option, words in shown:
            plain = re.sub(r"[`\\]", "", words).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            assert plain.removeprefix("Required. ").startswith(str(helps[option]).replace("\\", "").replace("`", "")), (
                option
            )


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        ("faq.md", "[a](../README.md#b)", "[a](overview.md#b)"),
        ("overview.md", "![a](docs/images/b.png)", "![a](images/b.png)"),
        ("notebooks/c.ipynb", "[a](../few_shot.md)", "[a](../few_shot.md)"),
        ("examples.md", "[a](../docs/dmf.md#b)", "[a](dmf.md#b)"),
        ("faq.md", "[a](../setup.cfg), [b](https://c.org/d.md), [e](#f)", "a, [b](https://c.org/d.md), [e](#f)"),
        ("faq.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
    ],
)
def test_links_lead_to_the_pages_of_the_site(page: str, text: str, shown: str) -> None:
    assert hook("repository_pages").with_links_of_the_site(text, page) == shown


def test_links_to_other_files_lead_to_the_repository_once_it_has_an_address() -> None:
    link = hook("repository_pages").with_links_of_the_site
    assert link("[a](../setup.cfg)", "faq.md", "https://b.org/c") == "[a](https://b.org/c/blob/main/setup.cfg)"


def test_links_of_notebooks_lead_to_the_pages_of_the_site_and_broken_ones_are_named(caplog) -> None:
    class File:
        src_uri = "notebooks/a.ipynb"

        def url_relative_to(self, other: Any) -> str:
            return "../../faq/"

    files = type("Files", (), {"get_file_from_path": staticmethod({"faq.md": File()}.get)})
    page = type("Page", (), {"file": File()})
    turned = hook("repository_pages").on_page_content('<a href="../faq.md#b">', page, None, files)
    assert turned == '<a href="../../faq/#b">' and not caplog.records
    hook("repository_pages").on_page_content('<a href="../gone.md">', page, None, files)
    assert "notebooks/a.ipynb links to ../gone.md, which is not a page" in caplog.text


def test_the_site_is_built_strictly_by_what_the_extra_installs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    assert re.search(r"^docs: .*\n\t.*mkdocs build --strict$", makefile, re.M)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf8")
    extra = setup["options.extras_require"]["docs"].split()
    assert {"mkdocs-material", "mkdocs-jupyter", "mkdocstrings[python]"} <= set(extra)
    assert "site/" in (ROOT / ".gitignore").read_text(encoding="utf8").splitlines()


def test_doctests_are_fenced_and_nothing_else_is(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "griffe", SimpleNamespace(Extension=object))
    fences = hook("fenced_doctests")
    text = "Add.\n\nArgs:\n    x: one.\n\n>>> [1, 2][0]\n1\n\nMore."
    assert fences.fenced(text) == text.replace(">>> [1, 2][0]\n1", "```pycon\n>>> [1, 2][0]\n1\n```")
    documented = SimpleNamespace(docstring=SimpleNamespace(value="    >>> 1\n    1"))
    fences.FencedDoctests().on_object(obj=documented)
    assert documented.docstring.value == "    ```pycon\n    >>> 1\n    1\n    ```"
