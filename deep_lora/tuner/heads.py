"""The head of a transformers model: new where a model is fine-tuned for another task, so it has to be trained whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable

from peft import TaskType
from torch import nn
from transformers import PreTrainedModel

from deep_lora.config import DeepLoraConfig

# What PEFT saves whole for a task. It names the last two when the layers are adapted already.
_PEFT_HEADS = {
    TaskType.SEQ_CLS: ("classifier", "score"),
    TaskType.TOKEN_CLS: ("classifier", "score"),
    TaskType.QUESTION_ANS: ("qa_outputs",),
}
_CLASSES_WITH_HEAD = r"For\w*(Classification|MultipleChoice|QuestionAnswering)"
_USUAL_HEADS = ("classifier", "score", "qa_outputs", "projector")  # where the class does not say what its base model is


def add_head_(config: DeepLoraConfig, model: nn.Module) -> None:
    """Add the head of a model for classification, question answering or multiple choice to `modules_to_save`.

    A head is what lies beside the base model. It stays as it is in an adapter for inference, and where the user has
    decided: by a task without a head, or by an empty `modules_to_save` without a task.

    PEFT asks for `task_type` when it chooses the class of its model, before it makes the tuner. Filled in here it would
    change nothing but the saved configuration, which `AutoPeftModel` then refuses; so it stays as the user set it.

    Raises:
        ValueError: `target_parameters` names one of a module that is saved whole.

    Warns:
        UserWarning: a model for classification has no head that can be told from its base model, or a target lies in
            the head alone, so that it is not adapted.
    """
    whole = [*(config.modules_to_save or ()), *_PEFT_HEADS.get(config.task_type, ())]
    if not _is_decided(config) and isinstance(model, PreTrainedModel) and _has_head(model):
        whole += head_of(model)
        _warn_of_targets(config, model, whole)
        if not any(saved_whole(whole, name) for name, _ in model.named_modules()):
            warnings.warn(
                f"the head of {type(model).__name__} is not known: unless `modules_to_save` names it, it is neither "
                "trained nor saved",
                stacklevel=2,
            )
    _check_parameters(config, model, whole)
    if whole:
        config.modules_to_save = list(dict.fromkeys(whole))


def head_of(model: PreTrainedModel) -> list[str]:
    """Return the names of the modules with parameters that lie beside the base model."""
    base = getattr(model, model.base_model_prefix, None)
    beside = [(name, child) for name, child in model.named_children() if child is not base]
    if base is None:
        beside = [(name, child) for name, child in beside if name in _USUAL_HEADS]
    return [name for name, child in beside if any(True for _ in child.parameters())]


def saved_whole(modules_to_save: Iterable[str] | None, name: str) -> str | None:
    """Return the module in or around `name` that PEFT saves whole: it goes by the end of names alone.

    >>> saved_whole(["classifier"], "pre_classifier.dense"), saved_whole(["classifier"], "encoder.dense")
    ('pre_classifier', None)
    """
    parts = name.split(".")
    around = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return next((outer for outer in around if outer.endswith(tuple(modules_to_save or ()))), None)


def _warn_of_targets(config: DeepLoraConfig, model: PreTrainedModel, whole: list[str]) -> None:
    """Warn of names in `target_modules` that no module beside the head has."""
    names = [name for name, _ in model.named_modules()]
    targets = config.target_modules if isinstance(config.target_modules, set | list) else ()
    for target in sorted(targets):
        found = [name for name in names if f".{name}".endswith(f".{target}")]
        if found and all(saved_whole(whole, name) for name in found):
            warnings.warn(
                f"`target_modules` names {target!r}, which lies in the head of the {type(model).__name__}: it is "
                "trained and saved whole, not adapted; pass `modules_to_save=[]` to adapt it",
                stacklevel=2,
            )


def _check_parameters(config: DeepLoraConfig, model: nn.Module, whole: list[str]) -> None:
    ends = tuple(f".{name}" for name in config.target_parameters or ())
    for name, _ in model.named_parameters():
        if f".{name}".endswith(ends) and (outer := saved_whole(whole, name.rpartition(".")[0])):
            raise ValueError(
                f"`target_parameters` names {name!r}, but {outer!r} is trained and saved whole; leave the name out, or "
                "pass a `modules_to_save` without it ([] for no head) and no `task_type`"
            )


def _is_decided(config: DeepLoraConfig) -> bool:
    other_task = config.task_type not in (None, *_PEFT_HEADS)
    return config.inference_mode or other_task or (config.task_type is None and config.modules_to_save == [])


def _has_head(model: PreTrainedModel) -> bool:
    """Tell by the name of the model's class, or of one that it inherits from."""
    return any(re.search(_CLASSES_WITH_HEAD, kind.__name__) for kind in type(model).__mro__)
