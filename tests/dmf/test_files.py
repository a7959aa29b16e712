"""A file is written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmf.files import complete_file


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("path_type", [str, Path])
def test_the_file_appears_when_it_is_complete(path_type, tmp_path) -> None:
    with complete_file(path_type(tmp_path / "run.json")) as partial:
        partial.write_text("half")
        assert not (tmp_path / "run.json").exists()
        partial.write_text("whole")
    assert contents(tmp_path) == {"run.json": "whole"}


def test_an_existing_file_is_replaced_at_once(tmp_path) -> None:
    (tmp_path / "run.json").write_text("old")
    with complete_file(tmp_path / "run.json") as partial:
        partial.write_text("new")
        assert (tmp_path / "run.json").read_text() == "old"
    assert contents(tmp_path) == {"run.json": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [True, False])
def test_after_an_error_the_old_file_is_there_and_no_other(error, begun: bool, tmp_path) -> None:
    (tmp_path / "run.json").write_text("old")
    with pytest.raises(error, match="the disk is full"), complete_file(tmp_path / "run.json") as partial:
        if begun:
            partial.write_text("ne")
        raise error("the disk is full")
    assert contents(tmp_path) == {"run.json": "old"}


def test_a_writer_that_writes_nothing_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError), complete_file(tmp_path / "run.json"):
        pass
    assert contents(tmp_path) == {}


def test_the_temporary_file_is_hidden_beside_the_file_keeps_its_suffix_and_is_not_shared(tmp_path) -> None:
    with complete_file(tmp_path / "plot.png") as first, complete_file(tmp_path / "plot.png") as second:
        assert first != second
        for partial in (first, second):
            assert partial.parent == tmp_path and partial.name.startswith(".plot.") and partial.suffix == ".png"
            partial.write_text("picture")
    assert contents(tmp_path) == {"plot.png": "picture"}


def test_the_file_gets_the_permissions_of_any_new_file(tmp_path) -> None:
    (tmp_path / "plain").write_text("")
    with complete_file(tmp_path / "run.json") as partial:
        partial.write_text("")
    assert os.stat(tmp_path / "run.json").st_mode == os.stat(tmp_path / "plain").st_mode
