"""Runs every example's `--smoke` one after the other in each process of one `accelerate launch`.

    accelerate launch ... launched.py FOLDER SCRIPT ...

`FOLDER/<script>` is the output folder of a script; `FOLDER/report-<rank>.json` says for each script its exit status,
what this process printed, and which files in the output folder this process opened to write. Together, the scripts
import torch once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def main() -> None:
    folder, *names = sys.argv[1:]
    rank = int(os.environ.get("RANK", "0"))
    sys.path[:0] = [str(EXAMPLES), str(EXAMPLES.parent)]
    written: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename") or (event == "open" and set(str(arguments[1])) & set("wax+"))
        if changes and str(arguments[0]).startswith(folder):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    report = {}
    for name in names:
        report[name] = run(name, str(Path(folder, name))) | {"written": written.copy()}
        written.clear()
    Path(folder, f"report-{rank}.json").write_text(json.dumps(report))


def run(name: str, output: str) -> dict[str, object]:
    """One script from its beginning to its exit."""
    sys.argv = [f"{name}.py", "--smoke", "--output_dir", output]
    printed = io.StringIO()
    status: object = None
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        except SystemExit as left:
            status = left.code
    return {"status": status, "printed": printed.getvalue()}


if __name__ == "__main__":
    main()
