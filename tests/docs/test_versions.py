"""The lowest versions that are tested are those that are declared, and the page on versions says what was tested."""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tests.paths import ROOT

PAPERS = ("collapse", "deep_lora", "modality")  # pages that say whose method it is


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf8")


def test_the_lowest_versions_tested_are_those_that_setup_cfg_declares() -> None:
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg", encoding="utf8")
    extras = [line for text in declared["options.extras_require"].values() for line in text.splitlines()]
    lines = [*declared["options"]["install_requires"].splitlines(), *extras]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    bounds = {(found.name, str(found.specifier).removeprefix(">=")) for found in requirements if found.specifier}
    lowest = dict(bounds)
    assert len(lowest) == len(bounds), "one package has two lowest versions"
    assert pinned("lowest") == lowest


def pinned(which: str) -> dict[str, str]:
    """The versions in `tests/lowest_versions.txt` or `tests/highest_versions.txt`."""
    text = text_of(f"tests/{which}_versions.txt")
    return dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))


def test_the_page_on_versions_shows_the_lowest_and_the_highest_that_are_tested() -> None:
    lowest, highest = pinned("lowest"), pinned("highest")
    page = text_of("docs/compatibility.md")
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    assert rows == [(name, lowest[name], highest[name]) for name, _, _ in rows] and {row[0] for row in rows} == set(
        lowest
    )
    assert all(Version(low) <= Version(high) for _, low, high in rows)


def test_the_torch_that_the_makefile_installs_is_the_highest_one() -> None:
    makefile = text_of("Makefile")
    assert re.search(r"^TORCH \?= torch==(.*)$", makefile, re.M)[1] == pinned("highest")["torch"]  # type: ignore[index]


def test_the_page_on_versions_shows_the_python_that_setup_cfg_declares() -> None:
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg", encoding="utf8")
    lowest = declared["options"]["python_requires"].removeprefix(">=")
    assert f"**Python**: {lowest} or newer" in text_of("docs/compatibility.md")


def test_citation_and_changelog_name_the_version_and_the_papers() -> None:
    version = ast.literal_eval(re.search(r"^__version__ = (.*)$", text_of("deep_lora/__init__.py"), re.M)[1])  # type: ignore[index]
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == version and f"\n## [{version}]" in text_of("CHANGELOG.md")
    numbers = {paper["url"].rpartition("/")[2] for paper in citation["references"]}
    assert len(numbers) == 3 and all(any(number in text_of(f"docs/{page}.md") for page in PAPERS) for number in numbers)
