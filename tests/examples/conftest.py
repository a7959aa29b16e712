"""The examples that train with Trainer, each run once in this process and once in two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

for library in ("datasets", "sklearn", "matplotlib", "pandas"):
    pytest.importorskip(library)

from tests.examples import cases, launched  # noqa: E402
from tests.processes import run_two  # noqa: E402


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> dict[str, list[str]]:
    """Name of an example -> words of its command line, with small inputs."""
    return cases.words_of(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def alone(tmp_path_factory, words):
    """Name of an example -> the folder it wrote, run in this process at most once."""
    done: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in done:
            folder = tmp_path_factory.mktemp("alone") / name
            with pytest.MonkeyPatch.context() as patch:
                assert cases.run(cases.load(name), patch, *words[name], "--output_dir", folder) == 0
            done[name] = folder
        return done[name]

    return run


@pytest.fixture(scope="session")
def together(tmp_path_factory, words):
    """The folder in which two processes ran every example, and what each of the two reports.

    Each process takes half of the batch, so that a step is as large as alone.
    """
    folder = tmp_path_factory.mktemp("together")
    halves = {"causal_lm": 2, "modality_gap": 8}
    halved = {name: [*words[name], "--per_device_train_batch_size", str(half)] for name, half in halves.items()}
    (folder / "words.json").write_text(json.dumps(halved))
    run_two(launched.run_all, folder)
    return folder, [json.loads((folder / f"report-{rank}.json").read_text()) for rank in range(2)]
