"""What a model with a normalized head does at every batch and when it is saved, through hooks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from collapse.classifier import MarginKind, NormalizedClassifier, with_margin
from collapse.classifier.normalized import check_labels
from collapse.heads.finding import WRAPPING, argument, linear_layers, outside_of_base


def register_hooks(base: nn.Module, head: str, margin: float, margin_kind: MarginKind) -> None:
    """Register what a model with a normalized head needs, once it has one."""
    base.register_forward_pre_hook(_BatchCheck(head), with_kwargs=True)
    if margin:
        base.register_forward_hook(_MarginLoss(head, margin, margin_kind), with_kwargs=True)
    base.register_load_state_dict_pre_hook(_hand_learned_scales_to_copies)
    base.register_state_dict_post_hook(_complete_learned_scales)


@dataclass
class _BatchCheck:
    """Check what only shows once a model runs: labels that are not classes, and layers that an adapter leaves out."""

    head: str
    has_trained: bool = False

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        check_labels(argument(module, "labels", args, kwargs))
        if module.training and not self.has_trained:
            self.has_trained = True
            check_left_out_layers(module, self.head)
            _ask_files_for_no_scale(module)


@dataclass
class _MarginLoss:
    """Replace the loss that a model returns in training by the cross entropy of logits with a margin.

    It is averaged as transformers averages: over `num_items_in_batch` if a Trainer passes it, or else over the labels
    that are not padding.
    """

    head: str
    margin: float
    kind: MarginKind

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not module.training:
            return output
        labels, logits = argument(module, "labels", args, kwargs), getattr(output, "logits", None)
        if labels is None or logits is None:
            raise ValueError(
                f"the margin of {self.margin} is part of the loss, and this training batch has no `labels` (label "
                "smoothing and `compute_loss_func` take them away) or no named outputs; pass `labels=` without these, "
                "or normalize the head without a margin"
            )
        scale: Any = module.get_submodule(self.head).scale
        labels = labels.to(logits.device)
        lowered = with_margin(logits, labels, scale, self.margin, self.kind).flatten(0, -2)
        count = kwargs.get("num_items_in_batch")
        total = functional.cross_entropy(lowered, labels.flatten(), reduction="sum")
        output["loss"] = total / ((labels != -100).sum() if count is None else torch.as_tensor(count).to(total.device))
        return output


def _hand_learned_scales_to_copies(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the learned scale of a saved adapter as PEFT renames its weight; it skips what a copy has not yet."""
    _ask_files_for_no_scale(model)
    for path, module in model.named_modules():
        saved, wanted = (f"{prefix}{name}.log_temperature_ratio" for name in (WRAPPING.sub("", path), path))
        if isinstance(module, NormalizedClassifier) and f"{prefix}{path}.weight" in state and wanted not in state:
            if saved in state:
                state[wanted] = state.pop(saved)


def _complete_learned_scales(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Save a learned scale even if it still has its initial value, when a head leaves it out."""
    for path, module in model.named_modules():
        weight = state.get(f"{prefix}{path}.weight")
        if isinstance(module, NormalizedClassifier) and module.log_temperature_ratio is not None and weight is not None:
            ratio = module.log_temperature_ratio
            kept = ratio if isinstance(weight, nn.Parameter) else ratio.detach()
            state.setdefault(f"{prefix}{path}.log_temperature_ratio", kept)


def check_left_out_layers(model: nn.Module, head: str) -> None:
    """Check that an adapter which trains and saves a head does so with the layers beside it that are new as well.

    transformers marks the parameters that it has loaded. Without any mark nobody knows what a checkpoint has.

    Raises:
        ValueError: the checkpoint of the base model lacks some that the adapter leaves out.

    Warns:
        UserWarning: it is not known whether a checkpoint has them.
    """
    if not any(".modules_to_save." in path for path in linear_layers(model).get(head, {})):
        return
    wanted = outside_of_base(model, head)
    left_out = {
        path: parameter
        for name in wanted
        for path, parameter in model.get_submodule(name).named_parameters(prefix=name)
        if not parameter.requires_grad and not WRAPPING.search(path)
    }
    is_known = any(_is_loaded(parameter) for parameter in model.parameters())
    new = [path for path, parameter in left_out.items() if not _is_loaded(parameter)]
    cure = f"pass `modules_to_save={wanted}` to PEFT"
    if new and is_known:
        raise ValueError(
            f"the adapter neither trains nor saves {new}, which the checkpoint of the base model lacks too, so they "
            f"would be other random numbers after loading; {cure}"
        )
    if new:
        warnings.warn(
            f"the adapter neither trains nor saves {new}; if no checkpoint has them, they are random numbers that "
            f"differ after loading: {cure}",
            stacklevel=2,
        )


def _is_loaded(parameter: nn.Parameter) -> bool:
    """Tell whether `from_pretrained` of transformers has found a parameter in the checkpoint."""
    return getattr(parameter, "_is_hf_initialized", False)


def _ask_files_for_no_scale(model: nn.Module) -> None:
    """Let PEFT load a fixed scale over one that was trained; it asks the file for all that the trained copy holds.

    A file with a learned scale is loaded all the same, see `_hand_learned_scales_to_copies`.
    """
    for module in model.modules():
        # PEFT's wrappers of modules saved whole have this method
        original = getattr(type(module), "adapter_state_dict_load_map", None)
        if original is not None and any(isinstance(part, NormalizedClassifier) for part in module.modules()):
            wrapper: Any = module
            wrapper.adapter_state_dict_load_map = partial(_without_scales, original, module)
            wrapper.other_param_names = module.adapter_layer_names  # no scale is taken for the base model's


def _without_scales(original: Callable[..., dict[str, str]], wrapper: nn.Module, adapter_name: str) -> dict[str, str]:
    found = original(wrapper, adapter_name)
    return {name: wanted for name, wanted in found.items() if name.rpartition(".")[2] != "log_temperature_ratio"}
