"""What kinds of layers an adapter adapts: the base model without weights, from its configuration alone."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from deep_lora.files import AdapterFileError

UNKNOWN_BASE = "the base model's configuration is not on this machine, or not one of transformers"
_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}


def load_meta_base(config: dict[str, Any], base_model: str | None) -> nn.Module | None:
    """Build the base model on the meta device; None if its configuration is not on this machine.

    No code of the base's repository is run.

    Args:
        config: the adapter's, which names the base.
        base_model: another name or folder of the base; unlike the one in the config it must be found.

    Raises:
        AdapterFileError: the model that was passed cannot be built.
    """
    name = base_model or config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    try:
        found = transformers.AutoConfig.from_pretrained(
            name, local_files_only=base_model is None, trust_remote_code=False
        )
        with torch.device("meta"):
            return _build(found, config)
    except Exception as error:  # whatever a foreign configuration leads to
        if base_model is None:
            return None
        raise AdapterFileError(
            f"the base model {base_model} cannot be built from its configuration: {error}"
        ) from error


def base_layer(base: nn.Module, name: str) -> nn.Module:
    """Return a layer of the base.

    A model with a head holds the one without under a name, its prefix: the file may have been saved from either.

    Raises:
        AdapterFileError: no module has this name.
    """
    prefix = f"{getattr(base, 'base_model_prefix', '')}."
    for path in (name, name.removeprefix(prefix), prefix + name):
        try:
            return base.get_submodule(path)
        except AttributeError:
            continue
    raise AdapterFileError(
        f"the base model, a {type(base).__name__}, has no module {name[:80]!r}; pass the right one with "
        "`base_model`, or `assume_linear=True` if all adapted layers are linear"
    )


def _build(found: Any, config: dict[str, Any]) -> nn.Module:
    """A model of the task's class; without a task, of the class that was adapted, or else of the one that was saved."""
    task = _AUTO_CLASSES.get(str(config.get("task_type")))
    mapping, saved = config.get("auto_mapping"), getattr(found, "architectures", None) or [None]
    adapted = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    for name in () if task else (adapted, saved[0]):
        kind = _model_class(name)
        own = None if kind is None else _config_for(kind, found)
        if kind is not None and own is not None:
            return kind._from_config(own)
    return getattr(transformers, task or "AutoModel").from_config(found, trust_remote_code=False)


def _model_class(name: object) -> type[transformers.PreTrainedModel] | None:
    """A model of transformers by its name, which nobody vouches for; None if the name belongs to anything else."""
    try:
        found = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    except Exception:  # it needs what is not installed
        return None
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _config_for(kind: type[transformers.PreTrainedModel], found: Any) -> Any:
    """The base's configuration, or the part of it that is for models of this kind; None if they do not belong to it."""
    parts = [found, *(getattr(found, name, None) for name in getattr(found, "sub_configs", ()))]
    wanted: Any = kind.config_class
    return next((part for part in parts if isinstance(wanted, type) and isinstance(part, wanted)), None)
