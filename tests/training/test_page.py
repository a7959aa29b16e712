"""The pages on the command line name options and files that exist."""

from __future__ import annotations

import ast
import importlib
import re

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from tests.paths import ROOT
from training import CONFIGS
from training.cli import COMMANDS, main
from training.settings.parsing import build_parser

PAGES = ("training", "chat", "serving", "processes")
PAGE = "\n".join((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in PAGES)
TYPES = {
    name: importlib.import_module(f"training.commands.{name.replace('-', '_')}").TYPES
    for name in COMMANDS
    if name != "configs"
}


def options_of(command: str) -> set[str]:
    parser = build_parser(TYPES[command], command, "")
    return {option for action in parser._actions for option in action.option_strings}


def test_every_command_on_the_page_has_the_options_that_it_is_shown_with() -> None:
    found = re.findall(r"deep-lora ([a-z][\w-]*)((?: +--?\w+(?: [^-`#\s][^`\s]*)*)*)", PAGE)
    assert len(found) >= 6 and {name for name, _ in found} <= set(COMMANDS)
    for name, words in found:
        if name in TYPES:
            assert set(re.findall(r"--\w+", words)) <= options_of(name), (name, words)


def test_every_option_on_the_page_exists() -> None:
    known = set().union(*(options_of(name) for name in TYPES)) | {"--help", "--help_all", "--config", "--config_file"}
    named = set(re.findall(r"--[a-z][a-z_0-9-]*", PAGE))
    of_other_programs = {"--no_python", "--enable-lora", "--max-lora-rank"}
    assert len(named) > 20 and named - known == of_other_programs


def test_python_blocks_are_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert blocks and all(ast.parse(block) for block in blocks)


def test_the_configurations_that_it_names_are_shipped() -> None:
    import yaml

    names = ["cpu_2_processes", "ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"]
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == names
    for name in names:
        assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["num_processes"] == 2


def test_the_block_that_finds_a_tolerance_keeps_the_outputs_of_a_run(
    bert, reviews, finetune, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finetune(bert, reviews, "--rank", 8, output=tmp_path / "runs" / "reviews")[0] == 0
    serving = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", serving, re.S) if 'tolerance="auto"' in each]
    names: dict = {}
    exec(block.replace("distilbert-base-uncased", str(bert)), names)
    inputs, model = names["batches"][0], names["model"].eval()
    with torch.no_grad():
        whole = model(**inputs).logits
        loaded = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
        loaded = PeftModel.from_pretrained(loaded, "small").eval()
        small = loaded(**inputs).logits
        for name, weight in loaded.named_parameters():
            if "lora_B" in name:
                weight.zero_()
        base = loaded(**inputs).logits
    assert 0 < (small - whole).norm() <= 0.05 * (whole - base).norm() and min(names["ranks"].values()) < 8


def test_the_configuration_that_a_command_looks_for_is_one_file(capsys) -> None:
    (wanted,) = re.findall(r"deep-lora configs \| grep ([\w.]+)", PAGE)
    assert main(["configs"]) == 0
    (found,) = [line for line in capsys.readouterr().out.splitlines() if wanted in line]
    assert (CONFIGS / wanted).samefile(found)
