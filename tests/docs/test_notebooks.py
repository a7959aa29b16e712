"""The notebooks run from top to bottom in their short form, and were saved without an error."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

INSTALLS = "skip-execution"  # the tag by which nbclient, too, leaves a cell out
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.filterwarnings("ignore")
for library in ("sentence_transformers", "sklearn", "matplotlib", "pandas", "datasets"):
    pytest.importorskip(library)


def code_of(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any], without: str) -> None:
    """Run a cell as Jupyter would; a program that it starts runs here, where one package cannot be imported."""
    if source.startswith("%%writefile "):
        name, _, text = source.removeprefix("%%writefile ").partition("\n")
        Path(name).write_text(text, encoding="utf8")
    elif source.startswith("!python "):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, without, None)
            runpy.run_path(source.removeprefix("!python ").strip())
    else:
        exec(compile(source, "a cell", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTEBOOK_SHORT", "1")
    names: dict[str, Any] = {"__name__": path.stem}
    for cell in code_of(path):
        if INSTALLS in cell["metadata"].get("tags", ()):
            continue
        run(cell["source"], names, without="deep_lora")
    assert (tmp_path / "runs" / path.stem / "lora" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_without_an_error_or_a_path_of_the_machine_that_ran_it(path: Path) -> None:
    outputs = [output for cell in code_of(path) for output in cell["outputs"]]
    assert "error" not in [output["output_type"] for output in outputs]
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(outputs))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_the_packaged_files_of_the_makefile(path: Path) -> None:
    pinned = set(re.search(r"^DEMO_ASSETS = (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())  # type: ignore[index]
    (cell,) = [cell for cell in code_of(path) if INSTALLS in cell["metadata"].get("tags", ())]
    installed = set(re.findall(r"[\w-]+==[\d.]+", cell["source"]))
    assert installed and installed <= pinned


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_notebook_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf8"))
    assert targets and [target for target in targets if not (path.parent / target).exists()] == []


def test_there_are_two_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["embeddings", "nothing_to_tune"]
