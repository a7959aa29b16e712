"""`deep-lora` itself: fast help, commands by name, exit statuses, no tokens."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

import deep_lora
from tests.fresh_process import run_python
from training import cli
from training.cli import COMMANDS, main
from training.errors import HIDDEN, RunError, public_settings, redacted
from training.tasks.registry import TASKS

TOKEN = "hf_" + "x" * 20


def test_the_first_help_imports_nothing_heavy() -> None:
    code = """
        import sys
        from training.cli import main
        assert main(["--help"]) == 0
        assert not {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
    """
    printed = run_python(code)
    assert all(command in printed for command in COMMANDS)


def test_an_unknown_command_is_corrected(capsys) -> None:
    assert main(["fintune"]) == 2
    assert "unknown command 'fintune'; did you mean 'finetune'?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "choose one of: finetune" in capsys.readouterr().err
    assert main([]) == 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RunError(f"refused for {TOKEN}"), 1, f"refused for {HIDDEN}"),
        (KeyboardInterrupt(), 130, "interrupted; rerun the same command to resume"),
        (ModuleNotFoundError("x", name="matplotlib"), 1, 'matplotlib is needed.*pip install "deep-lora\\[training\\]"'),
    ],
)
def test_errors_become_a_sentence_and_a_status(error, status, message, monkeypatch, capsys) -> None:
    def fail(name):
        raise error

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    assert main(["finetune"]) == status
    assert re.search(message, capsys.readouterr().err)


def test_python_m_training_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "training", "configs"], capture_output=True, text=True)
    assert done.returncode == 0 and "fsdp2.yaml" in done.stdout


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"configs"}))
@pytest.mark.parametrize("word", ["--help", "--help_all"])
def test_every_command_has_a_help_that_shows_how_in_80_columns(command, word, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, word])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and f"deep-lora {command}" in printed
    examples = re.findall(r"^  deep-lora (?:.*\\\n)*.*", printed, re.MULTILINE)
    assert examples and not any("  " in line.strip() for one in examples for line in one.splitlines()), examples
    assert max(map(len, printed.splitlines())) <= 80
    named = re.findall(r"^  (--\w+)", printed, re.MULTILINE)
    assert len(named) == len(set(named)) and "--learning-rate" not in printed and "%%" not in printed, "no option twice"


def test_the_help_of_a_training_command_is_one_screen_and_marks_what_is_required(capsys) -> None:
    assert max(map(len, cli.usage().splitlines())) <= 80
    for command in ("finetune", "classify", "contrastive", "compare"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert len(printed.splitlines()) < 40 and max(map(len, printed.splitlines())) <= 80
        assert " ..." not in printed.replace("value ...", "")
        assert re.search(r"--dataset +required\. ", printed), printed
        if "--task " in printed:
            assert set(TASKS) <= set(re.findall(r"\w+", printed))


def test_warnings_are_lines_without_places_in_the_code(bert, reviews, tmp_path) -> None:
    words = ["finetune", "--model", bert, "--dataset", reviews, "--output_dir", tmp_path / "run", "--use_cpu", "true"]
    words += ["--dry_run", "--max_length", "4"]
    command = [sys.executable, "-m", "training", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = (done.stdout + done.stderr).splitlines()[0]
    assert first.startswith("          task  classification") and "LOAD REPORT" not in done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert (
        told[0].startswith("warning: 36 of 36 train texts are longer than --max_length; ") and ".py:" not in done.stderr
    )


def test_the_usage_names_the_commands_that_have_no_dry_run(capsys) -> None:
    named = re.split(r",\s+", re.search(r"--dry_run .*?\(not (.*?)\)", cli.usage(), re.S)[1])
    for command in sorted(set(COMMANDS) - {"configs"}):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert ("--dry_run" in capsys.readouterr().out) == (command not in named), command
    assert "configs" in named


def test_required_options_come_first_and_are_marked(capsys) -> None:
    for command, names in {"predict": ["run", "data"], "complete": ["data"], "finetune": ["model"]}.items():
        with pytest.raises(SystemExit):
            main([command, "--help_all"])
        printed = " ".join(capsys.readouterr().out.split())
        first = printed.find(" --", printed.find("options: -h"))
        assert printed[first:].startswith(f" --{names[0]} TEXT Required. "), printed[first:][:80]
        assert all(f"--{name} TEXT Required. " in printed for name in names)


def test_help_all_shows_what_help_leaves_out(capsys) -> None:
    printed = {}
    for word in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            main(["finetune", word])
        printed[word] = capsys.readouterr().out
    assert "--neftune_noise_alpha" not in printed["--help"] and "--neftune_noise_alpha" in printed["--help_all"]
    assert all(f"--{name}" in printed["--help"] for name in ("model", "dataset", "rank", "bf16", "push_to_hub"))


def test_tokens_are_hidden_and_settings_hold_none(monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-without-prefix")
    assert redacted(f"{TOKEN} and secret-without-prefix and mine", "mine") == f"{HIDDEN} and {HIDDEN} and {HIDDEN}"
    settings = {"hub_token": "x", "api_key": "x", "nested": {"token": "x", "path": "/home/me/data.csv"}, "ids": ["x"]}
    assert public_settings(settings, "x") == {"nested": {"path": "data.csv"}, "ids": [HIDDEN]}


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = [sys.executable, "-m", "training", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 0 and b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_that_of_the_package(option: str, capsys) -> None:
    assert main([option]) == 0
    assert capsys.readouterr().out == f"deep-lora {deep_lora.__version__}\n"


def test_the_version_of_a_folder_that_is_not_installed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(cli.metadata, "version", _not_installed)
    assert main(["--version"]) == 0 and "not installed" in capsys.readouterr().out


def _not_installed(name: str) -> str:
    raise PackageNotFoundError(name)
