"""Load saved models with a normalized head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from collapse.classifier import NormalizedClassifier
from collapse.heads.normalizing import CONFIG_KEY, normalize_classifier_

ModelType = TypeVar("ModelType", bound=PreTrainedModel)


def normalized_class(model_class: type[ModelType]) -> type[ModelType]:
    """Make a subclass of a transformers model class with a normalized head, which `from_pretrained` then loads.

    The settings are those that `normalize_classifier_` wrote to `config.normalized_classifier`, or else its defaults.
    If a checkpoint has no classifier, the head starts with random unit vectors. The class keeps its name, so saved
    models name an architecture that every tool knows.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> type(normalized_class(BertForSequenceClassification)(config).classifier).__name__
    'NormalizedClassifier'
    """

    def build(self: PreTrainedModel, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        normalize_classifier_(self, head=(getattr(config, CONFIG_KEY, None) or {}).get("head"))

    def initialize(self: PreTrainedModel, module: Any) -> None:
        if not isinstance(module, NormalizedClassifier):
            with _plain_heads(module):
                return model_class._init_weights(self, module)
        # Through transformers' functions, which skip what the checkpoint has filled.
        init.copy_(module.weight, module.random_vectors())
        init.constant_(module.base_temperature, module.initial_scale)
        if module.log_temperature_ratio is not None:
            init.zeros_(module.log_temperature_ratio)

    body = {"__init__": build, "_init_weights": initialize, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), body)


@contextmanager
def _plain_heads(module: nn.Module) -> Iterator[None]:
    """Put linear layers in place of the normalized heads in a module, for classes that fill their weight and bias."""
    heads = [(path, head) for path, head in module.named_modules() if isinstance(head, NormalizedClassifier)]
    for path, head in heads:
        module.set_submodule(path, nn.Linear(head.in_features, head.out_features, device="meta"))
    try:
        yield
    finally:
        for path, head in heads:
            module.set_submodule(path, head)


def load_normalized_classifier(path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a model that was saved after `normalize_classifier_`, from a folder or the Hub.

    Plain `AutoModel...from_pretrained` would build an unnormalized head with a new bias, and warn about both.

    Args:
        path: folder or Hub name.
        kwargs: passed to `from_pretrained` (dtype, device_map, revision, ...).

    Raises:
        ValueError: if the configuration has no normalized head, or its class is not in transformers.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> import tempfile
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> model = BertForSequenceClassification(config)
    >>> _ = normalize_classifier_(model, scale=6.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     load_normalized_classifier(folder).classifier
    NormalizedClassifier(4, 3, scale=6)
    """
    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "trust_remote_code", "force_download")
    hub = {name: kwargs[name] for name in names if name in kwargs}
    config = kwargs.get("config") or transformers.AutoConfig.from_pretrained(path, **hub)
    if not getattr(config, CONFIG_KEY, None):
        raise ValueError(
            f"{path} was not saved with a normalized head (its config has no `{CONFIG_KEY}`); load it with "
            "`from_pretrained` and call `normalize_classifier_(model)`"
        )
    architecture = (config.architectures or ["none"])[0]
    model_class = getattr(transformers, architecture, None)
    if model_class is None:
        raise ValueError(
            f"{architecture!r} of {path} is not a model class of transformers; use "
            "`normalized_class(YourClass).from_pretrained(path)`"
        )
    return normalized_class(model_class).from_pretrained(path, **kwargs)
