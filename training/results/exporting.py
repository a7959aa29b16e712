"""Save what a run has learned: the adapter, and a plain LoRA that needs nothing of this project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import nn

from deep_lora import AdapterFileError, convert_folder, save_as_lora
from training.errors import refused
from training.models.adapters import adapted_parts, is_deep_lora
from training.names import ADAPTER, CONTRASTIVE, EXPORT, PARTIAL, TRAINING_ARGUMENTS
from training.trainer.trainer import AdapterTrainer


def save_adapter(trainer: AdapterTrainer, folder: Path) -> None:
    """Save `folder/adapter`, with tokenizer or image processor, and for Deep LoRA `folder/lora_export`.

    A model of several adapted parts has a folder for each of them in both. Each of the two appears under its name when
    it is complete. Every process must call this.
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
    _replace(partial, folder / ADAPTER)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_deep_lora(model):
        _export(trainer, model, folder)
    else:
        shutil.rmtree(folder / EXPORT, ignore_errors=True)  # of an earlier run, which this one overwrites
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _export(trainer: AdapterTrainer, model: nn.Module, folder: Path) -> None:
    export = folder / PARTIAL / EXPORT
    shutil.rmtree(export, ignore_errors=True)
    for name, part in adapted_parts(model).items():
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # the weights are sharded over the processes
            with refused("the adapter cannot be exported", AdapterFileError):
                convert_folder(folder / ADAPTER / name, export / name)
        else:
            save_as_lora(export / name, part)
    for path in (folder / ADAPTER).glob(f"{CONTRASTIVE}.*"):
        shutil.copy(path, export)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(str(export))
    _replace(export, folder / EXPORT)


def _replace(finished: Path, final: Path) -> None:
    if final.exists():
        shutil.rmtree(final)
    os.rename(finished, final)
