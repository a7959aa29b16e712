"""Settings files: YAML's pitfalls, byte order marks, and hints about what people type."""

from __future__ import annotations

import pytest

from training.cli import main
from training.errors import UsageError
from training.settings.common import RunArguments
from training.settings.data import TextDataArguments
from training.settings.files import read_settings
from training.settings.parsing import parse

TYPES = (TextDataArguments, RunArguments)


def run_arguments(path, text, *words, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return parse(TYPES, ["--config", str(path), "--use_cpu", "true", *words], command="finetune", description="")[1]


def test_no_is_no_and_small_numbers_are_numbers_inside_of_options_too(tmp_path) -> None:
    text = "lr_scheduler_kwargs: {min_lr: 1e-6, other: 2E+3}\npush_to_hub: no\n"
    text += "eval_strategy: no\nsave_strategy: no\nlearning_rate: 1e-5\n"
    text += "lr_scheduler_type: cosine_with_min_lr\n"
    run = run_arguments(tmp_path / "a.yaml", text)
    assert (run.eval_strategy, run.save_strategy, run.learning_rate) == ("no", "no", 1e-5) and not run.push_to_hub
    assert run.lr_scheduler_kwargs == {"min_lr": 1e-6, "other": 2000.0}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json_may_begin_with_a_byte_order_mark(encoding, tmp_path) -> None:
    assert run_arguments(tmp_path / "a.json", '{"seed": 7}', encoding=encoding).seed == 7
    assert run_arguments(tmp_path / "a.yaml", "seed: 7", encoding=encoding).seed == 7


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "seed: 1\nseed: 2\n"), ("a.json", '{"seed": 1, "seed": 2}')])
def test_an_option_that_comes_twice_is_refused(name, text, tmp_path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="cannot read the settings in .*: 'seed' appears twice; keep one of them"):
        read_settings(tmp_path / name)


def test_two_settings_files_are_refused(capsys) -> None:
    assert main(["finetune", "--config", "a.yaml", "--config=b.yaml"]) == 2
    assert "--config was passed twice; put all settings in one file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--lr", "--learning_rate"), ("--epochs", "--num_train_epochs"),
        ("--batch_size", "--per_device_train_batch_size"),
        ("--batch-size=4", "--per_device_train_batch_size"),
        ("--model_name_or_path", "--model"), ("--lora_r", "--rank"),
        ("--train_file", "--dataset"), ("--max_seq_length", "--max_length"),
        ("--learning_rat", "--learning_rate"),
    ],
)  # fmt: skip
def test_hints_name_what_is_meant(typed, meant, capsys) -> None:
    assert main(["finetune", typed, "1"]) == 2
    assert f"unknown option {typed.partition('=')[0]}; did you mean {meant}?" in capsys.readouterr().err


def test_names_with_commas_are_refused_and_written_with_spaces(capsys) -> None:
    assert main(["finetune", "--target_modules", "query,value"]) == 2
    told = capsys.readouterr().err
    assert "--target_modules got 'query,value'; separate names by spaces: --target_modules query value" in told
    assert main(["finetune", "--metrics", "accuracy,f1", "--use_cpu", "true"]) == 2
    assert "--metrics got 'accuracy,f1'; separate names by spaces: --metrics accuracy f1" in capsys.readouterr().err


def test_what_nothing_comes_near_gets_no_wrong_hint(capsys) -> None:
    assert main(["finetune", "--zebra", "1"]) == 2
    assert "unknown option --zebra; --help_all lists what there is" in capsys.readouterr().err


def test_a_second_value_of_an_option_that_takes_one_is_told(capsys) -> None:
    assert main(["finetune", "--rank", "1", "2"]) == 2
    assert (
        "'2' belongs to no option: the one before it takes fewer values; each option begins" in capsys.readouterr().err
    )
