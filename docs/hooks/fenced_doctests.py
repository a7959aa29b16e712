"""Doctests of docstrings are code on the site, and not Markdown whose brackets look like references."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import griffe


class FencedDoctests(griffe.Extension):
    """Puts the doctests of every docstring between fences."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Change the docstring of what was loaded."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """Return a text with fences around every paragraph that begins with a prompt."""
    paragraphs = [list(lines) for _, lines in groupby(text.splitlines(), key=lambda line: bool(line.strip()))]
    for lines in paragraphs:
        if lines[0].lstrip().startswith(">>>"):
            indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
            lines[:] = [f"{indent}```pycon", *lines, f"{indent}```"]
    return "\n".join(line for lines in paragraphs for line in lines)
