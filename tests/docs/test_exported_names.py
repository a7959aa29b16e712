"""The contract on imports across packages finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.exported_names import unexported_imports


@pytest.fixture
def tree(tmp_path):
    def write(statement: str):
        files = {
            "one/__init__.py": "",
            "one/user.py": statement,
            "two/__init__.py": "__all__ = ['public']\npublic = hidden = 1",
            "two/inner.py": "thing = 1",
            "two/theory.py": "__all__ = ['law']\nlaw = other = 2",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return list(unexported_imports(tmp_path, "one", {"one", "two"}))

    return write


@pytest.mark.parametrize(
    "statement",
    [
        "from two import hidden", "from two.inner import thing", "import two.inner", "from two import inner",
        "from two.theory import other", "from two import public, hidden", "def f():\n    from two import hidden",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from two.inner import thing",
    ],
)  # fmt: skip
def test_an_import_of_what_is_not_exported_is_found(tree, statement) -> None:
    assert len(found := tree(statement)) == 1 and found[0].startswith("one/user.py:") and "is not exported" in found[0]


@pytest.mark.parametrize(
    "statement",
    [
        "from two import public", "import two", "from two.theory import law", "from two import theory",
        "from one.sibling import anything", "import json", "from . import sibling",
    ],
)  # fmt: skip
def test_exported_names_other_libraries_and_the_own_package_pass(tree, statement) -> None:
    assert tree(statement) == []
