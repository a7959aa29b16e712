"""Where the trainable part of an adapter is, if its folder or repository has a plain LoRA at its root.

The root then holds the same update as LoRA, so that everything that loads LoRA loads it; the Deep LoRA adapter, which
can be trained further, is in the subfolder `deep_lora`. Where Deep LoRA is at the root, that is the trainable part.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from peft.utils import CONFIG_NAME

TRAINABLE = "deep_lora"
_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def trainable_folder(folder: str | os.PathLike[str]) -> Path:
    """Return where the Deep LoRA adapter of a folder is: in its subfolder, or in the folder itself.

    >>> trainable_folder("no/such/folder").as_posix()
    'no/such/folder'
    """
    root = Path(folder)
    return root / TRAINABLE if is_lora(root / CONFIG_NAME) and (root / TRAINABLE / CONFIG_NAME).is_file() else root


def trainable_subfolder(source: str | os.PathLike[str], **hub: Any) -> str | None:
    """Return the subfolder of a folder or a repository that holds its Deep LoRA adapter; None if it is the root.

    Args:
        source: a folder, or the name of a repository.
        **hub: `revision`, `cache_dir`, `token` and the like of `huggingface_hub.hf_hub_download`.
    """
    if os.path.isdir(source):
        return None if trainable_folder(source) == Path(source) else TRAINABLE
    try:
        if not is_lora(Path(hf_hub_download(str(source), CONFIG_NAME, **hub))):
            return None
        hf_hub_download(str(source), f"{TRAINABLE}/{CONFIG_NAME}", **hub)
    except LocalEntryNotFoundError:
        warnings.warn(
            f"the Hub cannot be reached, so {source} was not searched for {TRAINABLE}/{CONFIG_NAME}; if it has a "
            "Deep LoRA adapter there, its plain LoRA is loaded instead",
            stacklevel=4,
        )
        return None
    except (OSError, HFValidationError):  # no such repository or file: whoever loads it says so
        return None
    return TRAINABLE


def is_lora(path: Path) -> bool:
    """Tell whether the config of an adapter is that of a plain LoRA."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and str(fields.get("peft_type")).upper() == "LORA"


def hub_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments that say how to download from the Hub."""
    return {name: settings[name] for name in _HUB if settings.get(name) is not None}
