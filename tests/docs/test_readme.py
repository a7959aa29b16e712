"""Every measured figure in the README comes from a results file; its code and links are right."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftConfig
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

import deep_lora
from benchmarks.pages.__main__ import PAGES as MADE_PAGES
from benchmarks.pages.__main__ import with_tables
from deep_lora import DeepLoraConfig
from dmf import MatrixCompletion
from tests.models import adapt, bert_classifier, ids, layers_of
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


def test_the_first_block_trains_a_classifier_that_the_block_on_loading_loads(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    loading = next(block for block in blocks if "AutoPeftModel" in block)
    bert_classifier().save_pretrained("base")
    data = [{"input_ids": row, "labels": row[0] % 2} for row in ids(8)]
    names = {"model": BertForSequenceClassification.from_pretrained("base"), "data": data}
    exec(blocks[0], names)
    trained, batch = names["model"].cpu().eval(), ids(3)
    exec(loading, names)
    assert names["model"] is not trained
    assert torch.equal(names["model"].cpu()(input_ids=batch).logits, trained(input_ids=batch).logits)


def _block(text: str) -> str:
    return next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if text in block)


def test_the_block_with_a_loop_of_ones_own_runs() -> None:
    first_batches = [{"input_ids": ids(4, seed=seed), "labels": torch.tensor([0, 1, 1, 0])} for seed in range(2)]
    model = adapt(bert_classifier(), r=4, target_modules="all-linear", task_type="SEQ_CLS")
    before = [layer.deep_lora_V["default"].detach().clone() for layer in layers_of(model)]
    names = {"deep_lora": deep_lora, "model": model, "first_batches": first_batches}
    exec(_block("initialize_subspaces_(model, closure)"), names)
    after = [layer.deep_lora_V["default"] for layer in layers_of(model)]
    assert before and not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_block_on_completing_matrices_runs() -> None:
    rows, columns = torch.meshgrid(torch.arange(30), torch.arange(20), indexing="ij")
    ratings = 3 + torch.cos(rows / 5) * torch.cos(columns / 5)
    names = {"rows": rows.flatten().numpy(), "columns": columns.flatten().numpy(), "ratings": ratings.flatten().numpy()}
    exec(_block("MatrixCompletion"), names)
    errors = names["model"].predict([3, 3], [0, 7]) - ratings[[3, 3], [0, 7]].numpy()
    assert (abs(errors) < ratings.std().item()).all()


def test_the_settings_for_an_exact_matrix_recover_it_and_the_defaults_do_not() -> None:
    random = np.random.default_rng(0)
    truth = random.standard_normal((60, 3)) @ random.standard_normal((3, 40))
    unseen = random.random(truth.shape) < 0.5
    words = re.findall(r"`(\w+)=(\S+)`", re.search(r"for an exact matrix of low rank set (.*?)\.\n", README, re.S)[1])
    exact = {name: ast.literal_eval(value) for name, value in words}
    errors = []
    for settings in ({}, exact):
        model = MatrixCompletion(rank=20, random_state=0, **settings).fit(np.where(unseen, np.nan, truth))
        errors.append(np.linalg.norm((model.complete() - truth)[unseen]) / np.linalg.norm(truth[unseen]))
    assert len(exact) == 4 and errors[0] > 0.5 and errors[1] < 0.05


def test_the_block_on_features_on_the_sphere_runs(tmp_path) -> None:
    model, data = bert_classifier(), [{"input_ids": row, "labels": row[0] % 2} for row in ids(8)]
    arguments = TrainingArguments(str(tmp_path), max_steps=2, report_to=[], use_cpu=True, eval_strategy="epoch")
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    exec(_block("normalize_classifier_"), {"model": model, "trainer": trainer})
    trainer.train()
    assert any("nc1" in name for entry in trainer.state.log_history for name in entry)


def test_the_needed_versions_are_those_that_setup_cfg_declares() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf8")
    declared = dict(re.findall(r"(\w+)>=([\d.]+)", setup["options"]["install_requires"]))
    sentence = re.search(r"The library alone.*", README)[0]
    assert {name.lower(): version for name, version in re.findall(r"(\w+) (\d[\d.]*\d)", sentence)} == declared


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
    exec(block, {"DeepLoraConfig": DeepLoraConfig})


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
