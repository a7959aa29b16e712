"""`training.finetune` is the command from Python: the same options, checks and results."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import training
from tests.fresh_process import run_python
from tests.training import tiny
from training.cli import main
from training.errors import RunError, UsageError

SHORT = {
    "max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no",
    "disable_tqdm": True, "use_cpu": True, "rank": 2, "target_modules": ["query", "value"], "num_test_samples": None,
}  # fmt: skip


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = """
        import sys
        import training
        assert not {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
    """
    run_python(code)


def test_the_function_does_what_the_command_does(bert, reviews, tmp_path, capsys) -> None:
    result = training.finetune(model=bert, dataset=reviews, output_dir=tmp_path / "python", **SHORT)
    words = ["--model", str(bert), "--dataset", str(reviews), "--output_dir", str(tmp_path / "command")]
    for name, value in SHORT.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    assert main(["finetune", *words]) == 0
    assert result.folder == tmp_path / "python" and result.main_metric == "accuracy"
    assert result.metrics == {
        split: {name: pytest.approx(value) if name != "runtime" else result.metrics[split][name]
                for name, value in values.items()}
        for split, values in tiny.results(tmp_path / "command")["metrics"].items()
    }  # fmt: skip
    for folder in (result.adapter, result.trainable):
        here = load_file(folder / "adapter_model.safetensors")
        there = load_file(tmp_path / "command" / folder.relative_to(result.folder) / "adapter_model.safetensors")
        assert here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def test_a_dry_run_and_another_method_have_less_to_give_back(bert, reviews, tmp_path) -> None:
    where = {"model": bert, "dataset": reviews, "output_dir": tmp_path / "run"}
    dry = training.finetune(**where, **SHORT, dry_run=True)
    assert dry.metrics == {} and dry.adapter is None and dry.trainable is None and not (tmp_path / "run").exists()
    lora = training.finetune(**where, **SHORT, adapter="lora")
    assert lora.adapter.is_dir() and lora.trainable is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnak": 3}, r"finetune names unknown options \['rnak'\]; did you mean 'rank'"),
        ({"rank": "many"}, "argument --rank: invalid int value: 'many'"),
        ({"metrics": []}, "argument --metrics: expected at least one argument"),
        ({"rank": 0}, "--rank got 0; it must be at least 1"),
        ({"text_column": "--x"}, r"no column \['--x'\]"),
    ],
)
def test_options_that_cannot_work_are_value_errors(settings, message, bert, reviews, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        training.finetune(**({"model": bert, "dataset": reviews, "output_dir": tmp_path / "run"} | settings))
    assert issubclass(UsageError, ValueError) and issubclass(RunError, RuntimeError)
    assert not (tmp_path / "run").exists()
