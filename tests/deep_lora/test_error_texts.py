"""Every error that the packages raise is matched by a test."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAST = 12
PACKAGES = ("collapse", "deep_lora", "dmf", "modality")


def _raised_texts() -> list[tuple[str, list[str]]]:
    """(place, constant parts of the message) of every `raise X("...")` in the packages."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                parts = [n.value for n in ast.walk(node.exc.args[0]) if isinstance(n, ast.Constant)]
                texts = [part for part in parts if isinstance(part, str)]
                found.append((f"{path.parent.name}/{path.name}:{node.lineno}", texts))
    return found


def test_every_raise_has_a_test_that_matches_its_text() -> None:
    own = Path(__file__).name
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != own)
    tests = tests.replace("\\", "")
    raised = _raised_texts()
    assert len(raised) > 20
    untested = []
    for place, texts in raised:
        pieces = [text[i : i + LEAST] for text in texts for i in range(len(text) - LEAST + 1)]
        short = [text.strip() for text in texts if len(text.strip()) < LEAST]
        if not any(piece in tests for piece in pieces or short):
            untested.append((place, texts))
    assert not untested, untested
