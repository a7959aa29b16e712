"""Check a saved adapter before PEFT changes the model for it."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

FACTOR_NAMES = ("deep_lora_U", "deep_lora_core", "deep_lora_V")


def check_adapter_folder(folder: str | os.PathLike[str]) -> None:
    """Raise if `folder` holds an adapter file that is corrupt, truncated or inconsistent; only its header is read.

    PEFT puts an adapter into the model before it reads the weights, so a file that fails later leaves a changed model
    behind. A folder without the file passes (PEFT says where it looked).

    Raises:
        ValueError: the message names the file, what is wrong and what to do.
    """
    path = Path(folder) / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); it is probably truncated or corrupt. Copy or "
            "download it again; the model was not changed"
        ) from error
    modules: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for key, shape in shapes.items():
        module, _, name = key.rpartition(".")
        if name in FACTOR_NAMES:
            modules[module][name] = shape
    for module, found in modules.items():
        _check_module(path, module, found)


def _check_module(path: Path, module: str, found: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in FACTOR_NAMES if name not in found]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)} for module {module}: the adapter is incomplete. Save it again with "
            "`save_pretrained`; the model was not changed"
        )
    ranks = {found["deep_lora_U"][-1:], found["deep_lora_V"][-1:], found["deep_lora_core"][-1:]}
    if len(ranks) > 1 or found["deep_lora_core"][-1:] != found["deep_lora_core"][-2:-1]:
        raise ValueError(
            f"{path} holds tensors of different ranks for module {module}: {found}; expected U (out, r), core "
            "(n, r, r) and V (in, r). The file was edited or mixed up; the model was not changed"
        )
