"""What an option needs and is not there: a sentence that names the option, before anything is loaded."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from training.errors import UsageError
from training.settings import needs
from training.settings.common import RunArguments
from training.trainer.refusals import refuse_liger


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"use_liger_kernel": True}, "--use_liger_kernel needs liger-kernel, which is not installed: pip install"),
        ({"deepspeed": "ds.json"}, "--deepspeed needs DeepSpeed, which is not installed: pip install deepspeed"),
        ({"deepspeed": "none.json"}, "--deepspeed got 'none.json', which cannot be read: No such file or directory"),
        ({"deepspeed": "bad.json"}, "--deepspeed got 'bad.json', which is not JSON: Expecting property name"),
        ({"fsdp_config": "list.json"}, "--fsdp_config got 'list.json', which holds a list; it must map names to"),
        ({"accelerator_config": "none.json"}, "--accelerator_config got 'none.json', which cannot be read"),
        ({"fsdp": "full_shard"}, "--fsdp shards the weights over processes, and there is only one; start several with"),
        ({"torch_compile_backend": "x"}, "--torch_compile_backend got 'x'; choose one of: eager, aot_eager, inductor"),
        ({"torch_compile_mode": "x"}, "--torch_compile_mode got 'x'; choose one of: default, reduce-overhead, max-a"),
        ({"torch_compile": True}, r"--torch_compile on a CPU needs a C\+\+ compiler, and there is no nothing; install"),
        ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "'a/b/c' is not a valid repository name .--hub_model_id"),
        ({"push_to_hub": True, "output_dir": "r/a b"}, "'a b' is not a valid repository name"),
        ({"push_to_hub": True, "hub_model_id": "me/x"}, "--push_to_hub needs an access token that may write; log in"),
    ],
)
def test_it_is_refused_at_once(options, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "nothing")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(needs, "get_token", lambda: None)
    monkeypatch.setattr(needs, "is_liger_kernel_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, content in (("ds", "{}"), ("bad", "{oops"), ("list", "[1]")):
        (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(UsageError, match=told):
        RunArguments(use_cpu=True, **options)


def test_what_is_there_is_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(needs, "get_token", lambda: None)
    for options in ({"hub_token": "hf_x", "hub_model_id": "me/x"}, {"hub_token": "hf_x", "output_dir": "runs/x"}):
        assert RunArguments(use_cpu=True, push_to_hub=True, **options).push_to_hub
    (tmp_path / "config.json").write_text('{"split_batches": false}')
    taken = RunArguments(use_cpu=True, accelerator_config=str(tmp_path / "config.json"))
    assert taken.accelerator_config.split_batches is False


def test_kernels_that_there_are_not_for_a_model_are_refused(monkeypatch) -> None:
    module = SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None})
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", module)
    for kind, refused in (("llama", False), ("bert", True)):
        part = SimpleNamespace(
            get_base_model=lambda kind=kind: SimpleNamespace(config=SimpleNamespace(model_type=kind))
        )
        monkeypatch.setattr("training.trainer.refusals.adapted_parts", lambda model: {"": model})
        job = SimpleNamespace(run=SimpleNamespace(use_liger_kernel=True))
        if refused:
            with pytest.raises(UsageError, match="has no kernels for models of the type 'bert'; leave it out"):
                refuse_liger(job, part)
        else:
            refuse_liger(job, part)
