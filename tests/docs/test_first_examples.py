"""The example at the top of a page prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re

from tests.paths import ROOT


def test_the_first_example_of_dmf_is_short_and_prints_what_stands_below_it() -> None:
    text = (ROOT / "docs/dmf.md").read_text(encoding="utf8")
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.S).groups()
    assert text.index(code) == text.index("```python\n") + len("```python\n")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 5
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "dmf.md", "exec"), {"__name__": "docs.dmf"})
    assert printed.getvalue() == shown
