"""Where the classification head of a model is, by structure and not by name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from collapse.classifier import NormalizedClassifier

LinearHead = nn.Linear | NormalizedClassifier
# What PEFT puts between a module and the name that it had in the base model.
WRAPPING = re.compile(r"\.(original_module|modules_to_save\.[^.]+)(?=\.|$)")


class Head(NamedTuple):
    """The classification head of a model.

    Attributes:
        name: of the head beside the base model, with its inner layers: BART's is "classification_head". Of a head
            inside the base model, or of a module that is not from transformers, the name of the layer.
        copies: every copy of the last linear layer by its path (PEFT keeps one for each adapter).
        modules_to_save: for PEFT, all that lies beside the base model, whose checkpoint therefore lacks it: the head,
            and what is before it, such as ModernBERT's "head" before its "classifier".
        layer: the name of the last linear layer, BART's "classification_head.out_proj".
    """

    name: str
    copies: dict[str, LinearHead]
    modules_to_save: list[str]
    layer: str


def find_head(model: nn.Module, head: str | None = None) -> Head:
    """Find the last linear layer of a classification model, by structure and not by name.

    It is the only `nn.Linear` (or `NormalizedClassifier`) outside the base model whose output size is
    `config.num_labels`. This includes nested heads such as RoBERTa's `classifier.out_proj`, and models inside PEFT.

    Args:
        model: a transformers model, a PEFT model around one, or any module if `head` is given.
        head: the name of the head or of its last layer in the base model, if there are several candidates.

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
    found = _candidates(base) if head is None else _named(base, head)
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
    outermost = name.split(".")[0]
    whole = outermost if outermost in _beside_base(base) else name
    return Head(whole, copies, outside_of_base(base, name), name)


def base_model_of(model: nn.Module) -> nn.Module:
    """Return the transformers model inside a PEFT model, or else the model itself."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def outside_of_base(base: nn.Module, head: str) -> list[str]:
    """List the outermost modules with parameters beside the base model, or the head if it is inside."""
    beside = _beside_base(base)
    return beside if head.split(".")[0] in beside else [head]


def _beside_base(model: nn.Module) -> list[str]:
    """List the modules with parameters beside the base model of transformers; none if there is no base model."""
    prefix = getattr(model, "base_model_prefix", "")
    children = [name for name, module in model.named_children() if any(True for _ in module.parameters())]
    return [name for name in children if name != prefix] if prefix in children else []


def linear_layers(base: nn.Module) -> dict[str, dict[str, LinearHead]]:
    """Map the name of every linear layer of the base model, in order, to its copies by path; skip adapters' layers."""
    modules = dict(base.named_modules())
    adapted = tuple(path.removesuffix("base_layer") for path in modules if path.endswith(".base_layer"))
    layers: dict[str, dict[str, LinearHead]] = {}
    for path, module in modules.items():
        if path.startswith(adapted) and not path.endswith(".base_layer"):
            continue
        if isinstance(module, (nn.Linear, NormalizedClassifier)):
            name = WRAPPING.sub("", path).removesuffix(".base_layer")
            layers.setdefault(name, {})[path] = module
    return layers


def _named(base: nn.Module, head: str) -> dict[str, dict[str, LinearHead]]:
    """Return the linear layer of that name, or the last one in the head of that name, of `num_labels` outputs if any.

    Raises:
        ValueError: there is none.
    """
    layers = linear_layers(base)
    found = {name: copies for name, copies in layers.items() if name == head}
    if not found and head in _beside_base(base):
        found = {name: copies for name, copies in layers.items() if name.startswith(f"{head}.")}
        fitting = {name: copies for name, copies in found.items() if _fits(base, copies)}
        found = dict(list((fitting or found).items())[-1:])
    if not found:
        raise ValueError(f"the model has no linear layer called {head!r}; its last ones are {list(layers)[-3:]}")
    return found


def _fits(base: nn.Module, copies: dict[str, LinearHead]) -> bool:
    num_labels = getattr(getattr(base, "config", None), "num_labels", None)
    return all(copy.out_features == num_labels for copy in copies.values())


def _candidates(base: nn.Module) -> dict[str, dict[str, LinearHead]]:
    if getattr(getattr(base, "config", None), "num_labels", None) is None:
        raise ValueError(
            f"{type(base).__name__} has no `config.num_labels` that identifies its classifier; name it with `head=`"
        )
    layers = {name: copies for name, copies in linear_layers(base).items() if _fits(base, copies)}
    prefix = getattr(base, "base_model_prefix", "") or "\0"
    outside = {name: copies for name, copies in layers.items() if not name.startswith(prefix + ".")}
    if outside:
        return outside
    return dict(list(layers.items())[-1:])


def argument(module: nn.Module, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a call of a module passes as that argument of its forward pass, by name or by position, or None.

    >>> argument(nn.Linear(2, 2), "input", ["features"], {}), argument(nn.Linear(2, 2), "labels", ["features"], {})
    ('features', None)
    """
    if name in kwargs or not args:
        return kwargs.get(name)
    try:
        return inspect.signature(module.forward).bind_partial(*args).arguments.get(name)
    except TypeError:  # more arguments than the forward pass takes, which says so itself
        return None
