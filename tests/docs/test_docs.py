"""Every example in a docstring runs, and every public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

from tests.paths import exported_modules, packages


def modules_of(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return [package, *(module.name for module in pkgutil.walk_packages(path, f"{package}."))]


MODULES = [name for package in packages() for name in modules_of(package)]
EXPORTED = [name for package in packages() for name in exported_modules(package)]
PUBLIC = [(module, name) for module in EXPORTED for name in importlib.import_module(module).__all__]


def examples_of(module_name):
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(module_name)) if test.examples]


def test_there_are_examples_to_run():
    assert len(MODULES) > 10
    assert sum(len(test.examples) for name in MODULES for test in examples_of(name)) > 10
    assert len(PUBLIC) > 10


@pytest.mark.parametrize("module_name", MODULES)
def test_every_docstring_example_gives_what_it_shows(module_name):
    results = doctest.testmod(importlib.import_module(module_name))
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples fail, see the captured output"


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_every_public_name_is_documented(module, name):
    public = getattr(importlib.import_module(module), name)
    if not (inspect.isclass(public) or inspect.isroutine(public)):  # constants and type aliases have no docstring
        return
    documented = public.__dict__.get("__doc__") if inspect.isclass(public) else inspect.getdoc(public)
    assert not (documented or "").startswith(f"{name}("), f"{module}.{name} has a generated docstring only"
    assert documented and len(documented.split()) >= 3, f"{module}.{name} needs a docstring"


@pytest.mark.parametrize("module_name", MODULES)
def test_every_module_says_what_it_is_for(module_name):
    assert inspect.getdoc(importlib.import_module(module_name))


@pytest.mark.parametrize("package", packages())
def test_every_package_says_what_is_public(package):
    assert package in EXPORTED


@pytest.mark.parametrize("module", EXPORTED)
def test_public_names_are_sorted_and_unique(module):
    names = importlib.import_module(module).__all__
    assert list(names) == sorted(set(names))
