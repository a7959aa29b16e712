"""Run a few lines in a new interpreter, for what must hold in a process that knows nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.paths import ROOT


def run_python(code: str, *arguments: str) -> str:
    """The standard output of `code`, which must succeed; `arguments` are its sys.argv[1:]."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
