"""Every example in a docstring runs, and every public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import collapse
import deep_lora
import dmf
import evaluation_hooks
import modality
import training

PACKAGES = (collapse, deep_lora, dmf, evaluation_hooks, modality, training)
MODULES = [
    name
    for package in PACKAGES
    for name in [
        package.__name__,
        *(module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")),
    ]
]
PUBLIC = [(package, name) for package in PACKAGES for name in package.__all__]


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


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_is_documented(package, name):
    public = getattr(package, name)
    documented = public.__dict__.get("__doc__") if inspect.isclass(public) else inspect.getdoc(public)
    assert not (documented or "").startswith(f"{name}("), f"{package.__name__}.{name} has a generated docstring only"
    assert documented and len(documented.split()) >= 3, f"{package.__name__}.{name} needs a docstring"


@pytest.mark.parametrize("module_name", MODULES)
def test_every_module_says_what_it_is_for(module_name):
    assert inspect.getdoc(importlib.import_module(module_name))


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_sorted_and_unique(package):
    assert list(package.__all__) == sorted(set(package.__all__))
