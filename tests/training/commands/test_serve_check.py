"""`deep-lora serve-check`: a line for each program, and an exit status for those that were named."""

from __future__ import annotations

import shutil

from tests.deep_lora.export.serving_cases import save, with_fields
from training.cli import main


def test_the_command_takes_the_folder_of_a_run_and_answers_for_each_program(tmp_path, capsys) -> None:
    save(tmp_path / "run" / "adapter", "plain")
    assert main(["serve-check", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "                  vLLM  loads (--enable-lora)\n" in printed and "diffusers  no: it does not read" in printed
    shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "other")
    with_fields(tmp_path / "other", target_modules="q_proj")
    assert main(["serve-check", str(tmp_path / "other"), "--programs", "VLLM", "T-G-I"]) == 0
    capsys.readouterr()
    assert main(["serve-check", str(tmp_path / "other"), "--programs", "llama-cpp"]) == 1
    assert "llama.cpp  cannot tell: the configuration of the base model 'me/base' is not" in capsys.readouterr().out
    assert main(["serve-check", "--adapter", str(tmp_path / "other"), "--programs", "sglang"]) == 1
    assert "no: it takes names" in capsys.readouterr().out
    for words, message in (
        ([], "serve-check needs the folder of an adapter or of a run"),
        ([str(tmp_path / "other"), "--programs", "ollama"], "--programs got 'ollama'; choose from: PEFT, transformers"),
        ([str(tmp_path)], "is not the folder of an adapter"),
    ):
        assert main(["serve-check", *words]) == 2
        assert message in capsys.readouterr().err
