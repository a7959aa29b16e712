"""Every measured figure in the README comes from a results file; its code and links are right."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from readme_figures import with_table  # noqa: E402
from tables import with_tables  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf8")


def test_the_table_of_figures_is_what_the_results_files_say() -> None:
    assert with_table(README) == README, "run `python benchmarks/readme_figures.py --write`"


def test_the_tables_of_the_benchmarks_page_are_what_the_results_files_say() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf8")
    assert with_tables(page) == page, "run `python benchmarks/tables.py --write`"


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_python_block_is_python_and_names_only_what_exists() -> None:
    import deep_lora

    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 3
    for block in blocks:
        tree = ast.parse(block.replace("..., ", ""))
        imported = [n for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "deep_lora"
                    for n in node.names]  # fmt: skip
        used = re.findall(r"deep_lora\.(\w+)", block)
        assert all(hasattr(deep_lora, name) for name in [*used, *(alias.name for alias in imported)])
