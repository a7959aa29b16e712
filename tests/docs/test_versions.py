"""The lowest versions that are tested are those that are declared."""

from __future__ import annotations

from configparser import ConfigParser

from packaging.requirements import Requirement

from tests.paths import ROOT


def test_the_lowest_versions_tested_are_those_that_setup_cfg_declares() -> None:
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg", encoding="utf8")
    extras = [line for text in declared["options.extras_require"].values() for line in text.splitlines()]
    lines = [*declared["options"]["install_requires"].splitlines(), *extras]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    bounds = {(found.name, str(found.specifier).removeprefix(">=")) for found in requirements if found.specifier}
    lowest = dict(bounds)
    assert len(lowest) == len(bounds), "one package has two lowest versions"
    text = (ROOT / "tests" / "lowest_versions.txt").read_text(encoding="utf8")
    pinned = dict(line.split("==") for line in text.splitlines() if line and not line.startswith("#"))
    assert pinned == lowest
