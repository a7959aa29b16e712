"""Every error that the project raises is matched by a test of its package, or by one of the contract or the docs."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT, packages

ENOUGH = 20  # letters of the longest literal piece that a test must repeat; of a shorter piece, all of it
FOLDERS = ("benchmarks", "examples", *packages())
Functions = dict[str, list[str]]


def trees(folder: str, pattern: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).glob(pattern)):
        yield path, ast.parse(path.read_text(encoding="utf8"))


def texts_of(*nodes: ast.AST) -> list[str]:
    """Text constants, those inside f-strings too, but not the docstrings."""
    inside = [node for top in nodes for node in ast.walk(top)]
    documentation = {id(node.value) for node in inside if isinstance(node, ast.Expr)}
    constants = [node for node in inside if isinstance(node, ast.Constant) and id(node) not in documentation]
    return [node.value for node in constants if isinstance(node.value, str)]


def returned_texts(folder: str) -> Functions:
    """What the functions of a folder return, for errors whose text another function writes."""
    found: Functions = defaultdict(list)
    for _, tree in trees(folder, "**/*.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                found[node.name] += texts_of(*(inner for inner in ast.walk(node) if isinstance(inner, ast.Return)))
    return found


def abstract_raises(tree: ast.Module) -> set[int]:
    """`raise NotImplementedError` of methods that do nothing else; it needs no text."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    alone = [body[-1] for body in bodies if all(isinstance(statement, ast.Expr) for statement in body[:-1])]
    return {id(last) for last in alone if ast.unparse(last) == "raise NotImplementedError"}


def passes_on(error: ast.expr) -> bool:
    """Whether it is `X(str(error))`, or `X(reworded(str(error), ...))`, whose text is that of another error."""
    arguments = error.args if isinstance(error, ast.Call) else []
    inner = arguments[0].args[:1] if len(arguments) == 1 and isinstance(arguments[0], ast.Call) else []
    return "str(error)" in [ast.unparse(argument) for argument in (*arguments, *inner)]


def raised_texts(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(place, constant parts of the message) of every `raise X(...)` in a folder."""
    functions = returned_texts(folder)
    for path, tree in trees(folder, "**/*.py"):
        abstract = abstract_raises(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Raise) or node.exc is None or id(node) in abstract or passes_on(node.exc):
                continue
            called = [inner.id for inner in ast.walk(node.exc) if isinstance(inner, ast.Name)]
            texts = texts_of(node.exc) or [text for name in called for text in functions.get(name, [])]
            yield f"{path.relative_to(ROOT)}:{node.lineno}", texts


def words_of_tests(folder: str) -> str:
    files = [found for own in (folder, "contract", "docs") for found in trees(f"tests/{own}", "**/test_*.py")]
    texts = [text for path, tree in files if path != Path(__file__) for text in texts_of(tree)]
    return "\n".join(texts).replace("\\", "")


def is_matched(texts: list[str], words: str) -> bool:
    """Whether tests repeat enough of the longest literal piece of the message."""
    longest = max(texts, key=len, default="\0")
    length = min(len(longest), ENOUGH)
    return any(longest[start : start + length] in words for start in range(len(longest) - length + 1))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_raise_has_a_test_that_matches_its_text(folder: str) -> None:
    words = words_of_tests(folder)
    untested = [(place, texts) for place, texts in raised_texts(folder) if not is_matched(texts, words)]
    assert not untested, untested


def test_there_are_errors_to_look_at() -> None:
    assert all(any(raised_texts(folder)) for folder in ("benchmarks", "deep_lora", "dmf", "training"))
