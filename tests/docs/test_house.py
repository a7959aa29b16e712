"""The house rules that a machine can check: sizes, and what stands in one place alone."""

from __future__ import annotations

import ast
import configparser
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.paths import ROOT, packages

LINES, FUNCTION_LINES, UNLIKE_FILES = 300, 60, 15
FOLDERS = ("benchmarks", "examples", "tests", *(package for package in packages() if "." not in package))
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
RESULT_LINES = 60_000


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf8")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files_with(pattern: str, folders: tuple[str, ...] = FOLDERS) -> set[str]:
    """The files in which a line matches, this one left out."""
    found = {named(path) for path in FILES if re.search(pattern, text_of(path), re.M)}
    return {name for name in found if name.split("/")[0] in folders and name != named(Path(__file__))}


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(text_of(path)))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 300 and sum(len(functions_of(path)) for path in FILES) > 3000


def test_no_file_is_longer_than_its_limit() -> None:
    assert [named(path) for path in FILES if len(text_of(path).splitlines()) > LINES] == []


def test_no_function_is_longer_than_its_limit() -> None:
    lengths = {f"{named(p)}:{f.name}": (f.end_lineno or 0) - f.lineno + 1 for p in FILES for f in functions_of(p)}
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


def test_no_folder_holds_more_than_about_a_dozen_unlike_files() -> None:
    unlike = [path for path in FILES if path.name != "__init__.py" and not path.name.startswith("test_")]
    held = Counter(named(path.parent) for path in unlike)
    assert {folder: count for folder, count in held.items() if count > UNLIKE_FILES} == {}


@pytest.mark.parametrize(
    ("what", "home"),
    [
        (r"isinstance\(module, DeepLoraLayer\)", {"deep_lora/layers/finding.py"}),  # the loop over adapted layers
        (r"matplotlib\.use\(", {"training/results/figures.py"}),
        (r"\.remainder\b", {"evaluation_hooks/batches.py"}),  # rows of a last batch that are repeats
        (r"start_processes\(|multiprocessing\.spawn\(", {"tests/processes.py"}),
    ],
)
def test_it_stands_in_one_place(what: str, home: set[str]) -> None:
    folders = tuple(folder for folder in FOLDERS if folder != "tests" or "spawn" in what)
    assert files_with(what, folders) == home


def test_files_are_replaced_in_one_place_folders_elsewhere() -> None:
    assert files_with(r"os\.replace\(") - {"benchmarks/few_shot/tasks/language.py"} == {"dmf/files.py"}


def test_export_and_tuner_do_not_ask_what_kind_a_layer_is() -> None:
    kinds = r"isinstance\([^)]*\b(Linear|Embedding|Conv1D|Conv2d|ParamWrapper)\b"
    assert {name for name in files_with(kinds, ("deep_lora",)) if "/layers/" not in name} == set()


def test_no_test_edits_the_search_path_or_imports_a_test() -> None:
    assert files_with(r"sys\.path\.|sys\.path\[", ("tests",)) == set()
    assert files_with(r"^ *(from tests\.\S*\btest_|from tests\S* import .*\btest_)", ("tests",)) == set()


def test_results_are_compact() -> None:
    lines = sum(len(text_of(path).splitlines()) for path in (ROOT / "benchmarks" / "results").glob("*.json"))
    assert 0 < lines <= RESULT_LINES


def test_a_new_file_needs_no_edit_of_the_contracts() -> None:
    """`exhaustive` contracts would name every file."""
    assert "exhaustive" not in text_of(ROOT / "pyproject.toml")


def test_every_package_with_python_files_is_packaged() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = {named(path.parent).replace("/", ".") for path in FILES if path.parts[len(ROOT.parts)] in packages()}
    assert folders == set(setup["options"]["packages"].split())
