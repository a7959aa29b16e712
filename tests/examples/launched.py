"""Run examples one after the other in each of two processes, as `accelerate launch` would start them.

`FOLDER/words.json` maps the name of an example to the words of its command line; `FOLDER/<name>` is its output folder.
`FOLDER/report-<rank>.json` says of each example its exit status, what this process printed, and which files in the
output folder it opened to write.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from tests.paths import ROOT
from tests.processes import end_process, take_rank


def run_all(rank: int, place: str, port: int) -> NoReturn:
    """Be one of the two processes."""
    take_rank(rank, 2, port)
    os.environ |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}  # as the shipped configuration says
    folder = Path(place)
    written: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename") or (event == "open" and set(str(arguments[1])) & set("wax+"))
        if changes and str(arguments[0]).startswith(str(folder)):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    report = {}
    for name, words in json.loads((folder / "words.json").read_text()).items():
        report[name] = run(name, [*words, "--output_dir", str(folder / name)]) | {"written": written.copy()}
        written.clear()
    (folder / f"report-{rank}.json").write_text(json.dumps(report))
    end_process()


def run(name: str, words: list[str]) -> dict[str, object]:
    """Run one script from its beginning to its exit."""
    sys.argv = [f"{name}.py", *words]
    printed, status = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        except SystemExit as left:
            status = left.code
    return {"status": status or 0, "printed": printed.getvalue()}
