"""Adapters with a plain LoRA at the root: PEFT and transformers find the trainable part when something is trained.

PEFT's and transformers' loading and saving offer no hook to tuners, so their methods are wrapped.
"""

from __future__ import annotations

import inspect
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, hotswap
from transformers.integrations.peft import PeftAdapterMixin

from deep_lora.config import DeepLoraConfig
from deep_lora.export.lora import save_as_lora, to_lora
from deep_lora.files import AdapterFileError
from deep_lora.trainable import TRAINABLE, hub_options, is_lora, trainable_subfolder
from deep_lora.tuner.card import write_card
from deep_lora.tuner.loading import check_replaced
from deep_lora.tuner.wrapping import wrap

_FILES = (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
Function = Callable[..., Any]


def install() -> None:
    """Wrap the methods; a second call (reload) changes nothing."""
    wrap(PeftModel, "from_pretrained", _finding("model_id", _wanted_in_new_model))
    wrap(PeftModel, "load_adapter", _finding("model_id", lambda given: _wanted(given["self"], given)))
    wrap(hotswap, "hotswap_adapter", _finding("model_name_or_path", lambda given: _wanted(given["model"], given)))
    wrap(PeftModel, "save_pretrained", _with_lora_at_root)
    wrap(PeftModel, "_upload_modified_files", _with_lora_in_the_repository)
    wrap(PeftAdapterMixin, "load_adapter", _loading_of_transformers)


def put_lora_at_root(
    folder: str | os.PathLike[str], write: Callable[[Path], Any], model: PeftModel | None = None
) -> None:
    """Move a saved Deep LoRA adapter into its subfolder, write a plain LoRA in its place, and say so in the card.

    `model.save_pretrained(folder, lora_at_root=True)` calls it.

    Args:
        folder: of the saved adapter. It stays as it is if the LoRA cannot be written.
        write: writes the LoRA to the folder that it is given.
        model: that was saved; its card then says how wide its head is.

    Raises:
        AdapterFileError: there is no Deep LoRA adapter at the root of the folder.

    >>> import tempfile
    >>> from torch import nn
    >>> from peft import get_peft_model
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     put_lora_at_root(folder, lambda path: save_as_lora(path, model))
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'deep_lora']
    """
    folder = Path(folder)
    if is_lora(folder / CONFIG_NAME) or not all((folder / name).is_file() for name in _FILES):
        raise AdapterFileError(
            f"{folder} has no Deep LoRA adapter at its root; give a folder that `save_pretrained` wrote without "
            "`lora_at_root`"
        )
    written, own = folder / f".{TRAINABLE}.lora", folder / TRAINABLE
    try:
        write(written)
        own.mkdir(exist_ok=True)
        for name in _FILES:
            os.rename(folder / name, own / name)
            os.rename(written / name, folder / name)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    write_card(folder, model)


def _finding(source: str, wanted: Callable[[dict[str, Any]], bool]) -> Callable[[Function], Function]:
    """Make a wrapper that names the subfolder of the trainable part in a call that wants it.

    Args:
        source: the argument that holds the folder or the repository.
        wanted: of the arguments of the call.
    """

    def finding(original: Function) -> Function:
        signature = inspect.signature(original)

        def load(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if wanted(given):
                kwargs |= _subfolder(given[source], kwargs)
            return original(*args, **kwargs)

        return load

    return finding


def _wanted_in_new_model(given: dict[str, Any]) -> bool:
    return bool(given.get("is_trainable")) and given.get("config") is None


def _wanted(model: Any, given: dict[str, Any]) -> bool:
    """Tell whether a call loads Deep LoRA: what an adapter of that name is; else for training, or beside others."""
    held = getattr(model, "peft_config", {}).get(given.get("adapter_name") or "default")
    if held is not None:
        return isinstance(held, DeepLoraConfig)
    return bool(given.get("is_trainable")) or _has_deep_lora(model)


def _loading_of_transformers(original: Function) -> Function:
    signature = inspect.signature(original)

    def load_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        source = given.get("peft_model_id")
        if source is not None and given.get("peft_config") is None and _wanted(self, given):
            options = dict(kwargs.get("adapter_kwargs") or {})
            kwargs["adapter_kwargs"] = options | _subfolder(source, {**kwargs, **options})
        result = original(self, *args, **kwargs)
        name = given.get("adapter_name") or "default"
        if isinstance(self.peft_config.get(name), DeepLoraConfig):
            check_replaced(self, name, result.missing_keys)
        return result

    return load_adapter


def _has_deep_lora(model: Any) -> bool:
    """Tell whether the model has Deep LoRA adapters, beside which no LoRA can be loaded."""
    return any(isinstance(config, DeepLoraConfig) for config in getattr(model, "peft_config", {}).values())


def _subfolder(source: Any, kwargs: dict[str, Any]) -> dict[str, str]:
    """Return the argument that names the trainable part, if it is not at the root and no other was named."""
    if kwargs.get("subfolder"):
        return {}
    found = trainable_subfolder(source, **hub_options(kwargs))
    return {} if found is None else {"subfolder": found}


def _with_lora_at_root(original: Function) -> Function:
    signature = inspect.signature(original)

    def save_pretrained(self: PeftModel, *args: Any, lora_at_root: bool = False, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        if lora_at_root and not given.get("safe_serialization", True):
            raise ValueError("`lora_at_root=True` writes safetensors; leave `safe_serialization=False` out")
        result = original(self, *args, **kwargs)
        names = given.get("selected_adapters") or list(self.peft_config)
        for name in names if lora_at_root else ():
            if not isinstance(self.peft_config[name], DeepLoraConfig):
                continue
            if given.get("is_main_process", True):
                _rearrange(self, name, Path(given["save_directory"]) / ("" if name == "default" else name))
            else:
                to_lora(self, name)  # of sharded weights every process has a part
        return result

    return save_pretrained


def _rearrange(model: PeftModel, name: str, folder: Path) -> None:
    put_lora_at_root(folder, lambda path: save_as_lora(path, model, name), model)


def _with_lora_in_the_repository(original: Function) -> Function:
    def _upload_modified_files(self: PeftModel, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        folder = Path(working_dir)
        if _has_deep_lora(self):
            # transformers' push_to_hub has just replaced the card that save_pretrained wrote by a fresh one
            write_card(folder, self, repo_id)
            if "default" in self.peft_config and all((folder / name).is_file() for name in _FILES):
                try:
                    _rearrange(self, "default", folder)
                except ValueError as error:
                    warnings.warn(f"{repo_id} gets Deep LoRA at its root, without a plain LoRA: {error}", stacklevel=2)
            self.create_or_update_model_card(str(folder))
            write_card(folder, self, repo_id)
        return original(self, working_dir, repo_id, *args, **kwargs)

    return _upload_modified_files
