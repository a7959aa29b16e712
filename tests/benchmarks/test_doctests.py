"""Every example in a docstring of the benchmarks runs, and every module says what it is for."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import benchmarks

MODULES = [module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example_gives_what_it_shows(name: str) -> None:
    if name == "benchmarks.studies.completion_recovery":
        pytest.importorskip("cmfrec")
    module = importlib.import_module(name)
    assert inspect.getdoc(module) and doctest.testmod(module).failed == 0
