"""Save what a run has learned: an adapter that everything loads which loads LoRA, and that can be trained further."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

from torch import nn

from deep_lora import AdapterFileError, convert_folder, put_lora_at_root, save_as_lora
from training.errors import refused
from training.models.adapters import adapted_parts, is_deep_lora
from training.names import ADAPTER, EXPORT, PARTIAL, TRAINING_ARGUMENTS
from training.trainer.trainer import AdapterTrainer


def save_adapter(trainer: AdapterTrainer, folder: Path) -> None:
    """Save `folder/adapter`, with tokenizer or image processor; with Deep LoRA, a plain LoRA lies at its root.

    A model of several adapted parts has a folder for each of them. The folder appears under its name when it is
    complete. Every process must call this.
    """
    partial = folder / PARTIAL / ADAPTER
    if trainer.args.should_save:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if not trainer.args.should_save:
        return
    (partial / TRAINING_ARGUMENTS).unlink(missing_ok=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_deep_lora(model):
        put_exports_at_root(partial, model, sharded=trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)
    _replace(partial, folder / ADAPTER)
    shutil.rmtree(folder / EXPORT, ignore_errors=True)  # of an earlier version's run, which this one overwrites
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def put_exports_at_root(adapter: Path, model: nn.Module, *, sharded: bool) -> None:
    """Give each adapter of a folder its plain LoRA; one that LoRA cannot hold stays as it is, with a warning."""
    for name, part in adapted_parts(model).items():

        def write(path: Path, name: str = name, part: nn.Module = part) -> None:
            if sharded:  # over the processes
                with refused("the adapter cannot be exported", AdapterFileError):
                    convert_folder(adapter / name, path)
            else:
                save_as_lora(path, part)

        try:
            put_lora_at_root(adapter / name, write, part)
        except ValueError as error:
            warnings.warn(f"the adapter is saved only as Deep LoRA: {error}", stacklevel=3)


def _replace(finished: Path, final: Path) -> None:
    if final.exists():
        shutil.rmtree(final)
    os.rename(finished, final)
