"""What options of a run need beside themselves: packages, files, processes, a name on the Hub. Refused at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import DynamoBackend
from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import is_liger_kernel_available

from training.errors import UsageError
from training.settings.files import read_mapping

_FILES = ("deepspeed", "fsdp_config", "accelerator_config", "liger_kernel_config")
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of torch.compile


def refuse_missing(run: Any) -> None:
    """Raise if an option needs something that is not there.

    Args:
        run: the arguments of a run, before transformers reads them.

    Raises:
        UsageError: the text names the option, what is missing, and what to do.
    """
    for name in _FILES:
        _require_file(name, getattr(run, name))
    for check in _CHECKS:
        check(run)


def _require_file(name: str, value: Any) -> None:
    if not isinstance(value, str) or value.lstrip()[:1] == "{":  # nothing, or JSON itself
        return
    try:
        found = read_mapping(Path(value))
    except OSError as error:
        raise UsageError(f"--{name} got {value!r}, which cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of JSON and of YAML
        raise UsageError(f"--{name} got {value!r}, which is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--{name} got {value!r}, which holds a {type(found).__name__}; it must map names to values")


def _liger(run: Any) -> None:
    if run.use_liger_kernel and not is_liger_kernel_available():
        raise UsageError("--use_liger_kernel needs liger-kernel, which is not installed: pip install liger-kernel")


def _deepspeed(run: Any) -> None:
    if run.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise UsageError("--deepspeed needs DeepSpeed, which is not installed: pip install deepspeed")


def _fsdp(run: Any) -> None:
    if run.fsdp and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "--fsdp shards the weights over processes, and there is only one; start several with accelerate launch or "
            "torchrun, or leave it out"
        )


def _compile(run: Any) -> None:
    backends = [one.value.lower() for one in DynamoBackend if one.value != "NO"]
    if run.torch_compile_backend is not None and run.torch_compile_backend.lower() not in backends:
        raise UsageError(
            f"--torch_compile_backend got {run.torch_compile_backend!r}; choose one of: {', '.join(backends)}"
        )
    if run.torch_compile_mode is not None and run.torch_compile_mode not in _MODES:
        raise UsageError(f"--torch_compile_mode got {run.torch_compile_mode!r}; choose one of: {', '.join(_MODES)}")
    compiled = run.torch_compile or run.torch_compile_backend or run.torch_compile_mode
    compiler = os.environ.get("CXX", "g++")
    if compiled and run.use_cpu and run.torch_compile_backend in (None, "inductor") and shutil.which(compiler) is None:
        raise UsageError(
            f"--torch_compile on a CPU needs a C++ compiler, and there is no {compiler}; install one, name it in CXX, "
            "or leave --torch_compile out"
        )


def _hub(run: Any) -> None:
    if not run.push_to_hub:
        return
    name = run.hub_model_id or Path(run.output_dir or "runs").resolve().name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"{name!r} is not a valid repository name (--hub_model_id): {error}") from error
    if not (run.hub_token or get_token()):
        raise UsageError(
            "--push_to_hub needs an access token that may write; log in with `hf auth login`, set HF_TOKEN, or leave "
            "it out and upload later with deep-lora push"
        )


_CHECKS: tuple[Callable[[Any], None], ...] = (_liger, _deepspeed, _fsdp, _compile, _hub)
