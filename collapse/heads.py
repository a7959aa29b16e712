"""Replace the classification head of a transformers model by a normalized one, in place."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from collapse.classifier import NormalizedClassifier, check_has_classes, check_labels

LinearHead = nn.Linear | NormalizedClassifier
CONFIG_KEY = "normalized_classifier"
SCALE_KEY, LEARNABLE_KEY = "temperature", "learnable_temperature"  # as saved configurations have them
# What PEFT puts between a module and the name that it had in the base model.
_WRAPPING = re.compile(r"\.(original_module|modules_to_save\.[^.]+)(?=\.|$)")


class Head(NamedTuple):
    """The classifier of a model: its name there, and every copy of it (PEFT keeps one for each adapter).

    `modules_to_save` is for PEFT: all that lies outside of the base model, and which its checkpoint therefore lacks.
    """

    name: str
    copies: dict[str, LinearHead]
    modules_to_save: list[str]


def find_head(model: nn.Module, head: str | None = None) -> Head:
    """Find the last linear layer of a classification model, by structure and not by name.

    It is the only `nn.Linear` (or `NormalizedClassifier`) outside the base model whose output size is
    `config.num_labels`. This includes nested heads such as RoBERTa's `classifier.out_proj`, and models inside PEFT.

    Args:
        model: a transformers model, a PEFT model around one, or any module if `head` is given.
        head: its name in the base model, if there are several candidates.

    Raises:
        ValueError: if there is no such layer, or more than one.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> find_head(BertForSequenceClassification(config)).name
    'classifier'
    >>> from transformers import DistilBertConfig, DistilBertForSequenceClassification
    >>> config = DistilBertConfig(vocab_size=9, dim=4, hidden_dim=4, n_layers=1, n_heads=1, num_labels=3)
    >>> find_head(DistilBertForSequenceClassification(config)).modules_to_save
    ['pre_classifier', 'classifier']
    """
    base = base_model_of(model)
    if head is not None:
        found = {name: copies for name, copies in _linear_layers(base).items() if name == head}
        if not found:
            raise ValueError(
                f"the model has no linear layer called {head!r}; its last ones are {list(_linear_layers(base))[-3:]}"
            )
    else:
        found = _candidates(base)
    if len(found) != 1:
        raise ValueError(
            f"{type(base).__name__} has {len(found)} layers that could be its classifier: {list(found)}; "
            "name the right one with `head=`"
        )
    ((name, copies),) = found.items()
    for path in copies:
        if path.endswith(".base_layer"):
            raise ValueError(
                f"the classifier {name!r} is itself the target of an adapter; leave it out of `target_modules` and "
                "list it in `modules_to_save`"
            )
    return Head(name, copies, _outside_of_base(base, name))


def normalize_classifier_(
    model: nn.Module,
    scale: float | None = None,
    learnable_scale: bool = False,
    head: str | None = None,
) -> NormalizedClassifier:
    """Replace the last linear layer of a classification model by a `NormalizedClassifier`, in place.

    Everything before it (pooling, dropout, inner layers of the head) and after it (label mapping, loss) stays. The new
    head keeps the directions of the class vectors and has no bias. Call this before or after `get_peft_model`; if
    after, every adapter's copy in `modules_to_save` is replaced too. PEFT finds heads called `classifier` or `score` by
    itself, but not the other new layers of a head, such as the dense one of BART and DistilBERT: pass
    `modules_to_save=find_head(model).modules_to_save`. A first training batch without them brings a warning.

    The settings are kept in `model.config`, so a saved model comes back with `load_normalized_classifier(path)`. Under
    PEFT, normalize the base model with the same settings before `PeftModel.from_pretrained`.

    Args:
        model: any `*ForSequenceClassification`, `*ForTokenClassification`, `*ForImageClassification`, ..., or a module
            with `head` given.
        scale: of the cosines; None takes the value in `model.config`, if any, or else `scale_for_loss(num_labels)`.
        learnable_scale: see `NormalizedClassifier`.
        head: the layer's name, if `find_head` needs it.

    Returns:
        The new head in use (that of the active adapter).

    Raises:
        ValueError: for regression, multi-label and question-answering models, for a head that is already normalized or
            quantized, or without a head. From then on the model raises a TypeError for labels that are not integers.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> model = BertForSequenceClassification(config)
    >>> normalize_classifier_(model, scale=6.0)
    NormalizedClassifier(4, 3, scale=6)
    """
    base = base_model_of(model)
    config = getattr(base, "config", None)
    check_has_classes(base)
    found = find_head(model, head)
    for old in found.copies.values():
        _check_replaceable(found.name, old)
    settings: dict[str, Any] = dict(getattr(config, CONFIG_KEY, None) or {})
    if scale is not None:
        settings[SCALE_KEY] = scale
    if learnable_scale:
        settings[LEARNABLE_KEY] = True
    settings = {SCALE_KEY: None, LEARNABLE_KEY: False} | settings | {"head": found.name}
    heads = []
    for path, old in found.copies.items():
        new = _normalized(old, settings[SCALE_KEY], settings[LEARNABLE_KEY])
        parent, _, attribute = path.rpartition(".")
        setattr(base.get_submodule(parent), attribute, new)
        heads.append((path, new))
    if config is not None:
        setattr(config, CONFIG_KEY, settings | {SCALE_KEY: heads[0][1].initial_scale})
    _register_hooks(base, found.name)
    return _in_use(base, heads)


def _register_hooks(base: nn.Module, head: str) -> None:
    base.register_forward_pre_hook(_BatchCheck(head), with_kwargs=True)
    base.register_load_state_dict_pre_hook(_hand_learned_scales_to_copies)
    base.register_state_dict_post_hook(_complete_learned_scales)


def base_model_of(model: nn.Module) -> nn.Module:
    """Return the transformers model inside a PEFT model, or else the model itself."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


@dataclass
class _BatchCheck:
    """Check what only shows once a model runs: labels that are not classes, and layers that an adapter leaves out."""

    head: str
    has_trained: bool = False

    def __call__(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        check_labels(kwargs.get("labels"))
        if module.training and not self.has_trained:
            self.has_trained = True
            warn_of_left_out_layers(module, self.head)


def _hand_learned_scales_to_copies(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename the learned scale of a saved adapter as PEFT renames its weight; it skips what a copy has not yet."""
    for path, module in model.named_modules():
        saved, wanted = (f"{prefix}{name}.log_temperature_ratio" for name in (_WRAPPING.sub("", path), path))
        if isinstance(module, NormalizedClassifier) and f"{prefix}{path}.weight" in state and wanted not in state:
            if saved in state:
                state[wanted] = state.pop(saved)


def _complete_learned_scales(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Save a learned scale also while it is as at the start, when a head leaves it out."""
    for path, module in model.named_modules():
        weight = state.get(f"{prefix}{path}.weight")
        if isinstance(module, NormalizedClassifier) and module.log_temperature_ratio is not None and weight is not None:
            ratio = module.log_temperature_ratio
            kept = ratio if isinstance(weight, nn.Parameter) else ratio.detach()
            state.setdefault(f"{prefix}{path}.log_temperature_ratio", kept)


def warn_of_left_out_layers(model: nn.Module, head: str) -> None:
    """Warn if an adapter trains and saves a head, but not the layers beside it that are new as well."""
    if not any(".modules_to_save." in path for path in _linear_layers(model).get(head, {})):
        return
    wanted = _outside_of_base(model, head)
    left_out = [
        path
        for name in wanted
        for path, parameter in model.get_submodule(name).named_parameters(prefix=name)
        if not parameter.requires_grad and not _WRAPPING.search(path)
    ]
    if left_out:
        warnings.warn(
            f"the adapter neither trains nor saves {left_out}; if no checkpoint has them, they are random numbers that "
            f"differ after loading: pass `modules_to_save={wanted}` to PEFT",
            stacklevel=2,
        )


def _outside_of_base(base: nn.Module, head: str) -> list[str]:
    """List the outermost modules with parameters beside the base model, or the head if it is inside."""
    prefix = getattr(base, "base_model_prefix", "")
    children = {name: module for name, module in base.named_children() if any(True for _ in module.parameters())}
    if prefix not in children or head.split(".")[0] == prefix:
        return [head]
    return [name for name in children if name != prefix]


def _linear_layers(base: nn.Module) -> dict[str, dict[str, LinearHead]]:
    """Map the name of every linear layer of the base model, in order, to its copies by path; skip adapters' layers."""
    modules = dict(base.named_modules())
    adapted = tuple(path.removesuffix("base_layer") for path in modules if path.endswith(".base_layer"))
    layers: dict[str, dict[str, LinearHead]] = {}
    for path, module in modules.items():
        if path.startswith(adapted) and not path.endswith(".base_layer"):
            continue
        if isinstance(module, (nn.Linear, NormalizedClassifier)):
            name = _WRAPPING.sub("", path).removesuffix(".base_layer")
            layers.setdefault(name, {})[path] = module
    return layers


def _candidates(base: nn.Module) -> dict[str, dict[str, LinearHead]]:
    num_labels = getattr(getattr(base, "config", None), "num_labels", None)
    if num_labels is None:
        raise ValueError(
            f"{type(base).__name__} has no `config.num_labels` that identifies its classifier; name it with `head=`"
        )
    layers = {
        name: copies
        for name, copies in _linear_layers(base).items()
        if all(copy.out_features == num_labels for copy in copies.values())
    }
    prefix = getattr(base, "base_model_prefix", "") or "\0"
    outside = {name: copies for name, copies in layers.items() if not name.startswith(prefix + ".")}
    if outside:
        return outside
    return dict(list(layers.items())[-1:])


def _check_replaceable(name: str, old: LinearHead) -> None:
    if isinstance(old, NormalizedClassifier):
        raise ValueError(
            f"the classifier {name!r} is already normalized; fill its `base_temperature` to change the scale"
        )
    if not old.weight.is_floating_point() or old.weight.shape != (old.out_features, old.in_features):
        raise ValueError(
            f"the classifier {name!r} is a {type(old).__name__} with {old.weight.dtype} weights; keep the head out of "
            "quantization (for bitsandbytes: `llm_int8_skip_modules`)"
        )


@torch.no_grad()
def _normalized(old: LinearHead, scale: float | None, learnable: bool) -> NormalizedClassifier:
    """Make a normalized head with the directions, dtype, device and training state of a linear layer."""
    device, dtype = old.weight.device, old.weight.dtype
    new = NormalizedClassifier(old.in_features, old.out_features, scale, learnable, device=device, dtype=dtype)
    kept = old.weight.norm(dim=1, keepdim=True) > 0  # a zero row has no direction: it keeps its random one
    new.weight.copy_(torch.where(kept, old.weight, new.weight))
    new.weight.copy_(new.class_vectors())
    new.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def _in_use(base: nn.Module, heads: list[tuple[str, NormalizedClassifier]]) -> NormalizedClassifier:
    """Return the copy that the active adapter uses, or else the first copy."""
    for path, module in heads:
        wrapper, _, rest = path.partition(".modules_to_save.")
        if rest and rest.split(".")[0] in getattr(base.get_submodule(wrapper), "active_adapters", ()):
            return module
    return heads[0][1]
