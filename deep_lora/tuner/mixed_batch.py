"""Inference with a different adapter for every sample of a batch (`model(x, adapter_names=[...])`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.finding import adapter_names as adapter_names_of

BASE_MODEL = "__base__"
# Their layers see (tokens, samples). With as many tokens as samples nothing else would show it.
_TOKENS_FIRST = {"fsmt", "led", "longformer", "xlnet"}


def _inject(
    module: Any,
    args: tuple,
    kwargs: dict[str, Any] | None = None,
    *,
    adapter_names: Sequence[str],
    called: set[int],
    thread: int,
    model_type: str | None = None,
) -> tuple[tuple, dict[str, Any]] | None:
    if kwargs is None:  # torch calls another thread's hook so, while that is put on or taken off
        return None
    if threading.get_ident() == thread or getattr(module, "_is_replica", False):  # of `nn.DataParallel`
        _check_order(args, adapter_names, model_type)
        kwargs["adapter_names"] = adapter_names
        called.add(id(module))
    return args, kwargs


def _check_order(args: tuple, adapter_names: Sequence[str], model_type: str | None) -> None:
    x = args[0] if args else None
    count = len(adapter_names)
    square = isinstance(x, Tensor) and x.ndim > 2 and x.shape[:2] == (count, count)
    if model_type in _TOKENS_FIRST and square and count > 1:
        raise ValueError(
            f"layers of a {model_type} model see tokens before samples, and this batch has {count} of each, so "
            "samples cannot be matched with adapters; call the model once for each adapter, after `set_adapter`"
        )


def _encoder(model: Any) -> nn.Module | None:
    """Return the encoder of an encoder-decoder model (transformers returns the model itself if there is none)."""
    encoder = model.get_encoder() if hasattr(model, "get_encoder") else None
    return None if encoder is model else encoder


def _check_names(tuner: nn.Module, adapter_names: Sequence[str]) -> None:
    if tuner.training:
        raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
    known = {BASE_MODEL, *adapter_names_of(tuner)}
    unknown = sorted(set(adapter_names) - known)
    if unknown:
        raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}")


@contextmanager
def adapter_names_injected(tuner: Any, adapter_names: Sequence[str], num_beams: Any = None) -> Iterator[None]:
    """Hand `adapter_names` to every adapted layer and saved module for one call, only in this thread.

    Beam search repeats each sample `num_beams` times, everywhere but in the encoder of an encoder-decoder model.

    Raises:
        ValueError: in training mode, for a name that no layer knows, where a model reads a layer's weight, which has
            no samples, and does not call the layer, or where tokens could be taken for samples.
        TypeError: if beams are searched and the names are not a list.
    """
    _check_names(tuner, adapter_names)
    repeated = adapter_names
    beams = num_beams if isinstance(num_beams, int) and num_beams > 1 else 1
    if beams > 1:
        if not isinstance(adapter_names, list | tuple):
            raise TypeError(f"Got adapter names of type {type(adapter_names)}, expected a list of str.")
        repeated = [name for name in adapter_names for _ in range(beams)]
    encoder = _encoder(tuner.model)
    in_encoder = set() if encoder is None else {id(module) for module in encoder.modules()}
    handles, called, thread = [], set[int](), threading.get_ident()
    model_type = getattr(getattr(tuner.model, "config", None), "model_type", None)
    try:
        saved_whole = [module for module in tuner.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
        layers: list[Any] = list(adapted_layers(tuner).values())
        for layer in layers:
            layer.read_in_mixed_batch[thread] = False
        for module in [*layers, *saved_whole]:
            names = adapter_names if id(module) in in_encoder else repeated
            hook = partial(_inject, adapter_names=names, called=called, thread=thread, model_type=model_type)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
        read = [name for name, layer in adapted_layers(tuner).items() if layer.read_in_mixed_batch[thread]]
        _check_called(tuner, [name for name in read if id(tuner.get_submodule(name)) not in called])
    finally:
        for handle in handles:
            handle.remove()
        for layer in adapted_layers(tuner).values():
            layer.read_in_mixed_batch.pop(thread, None)


def _check_called(tuner: nn.Module, only_read: list[str]) -> None:
    if only_read:
        raise ValueError(
            f"{type(tuner.model).__name__} reads the weight of {only_read[0]} without calling the module, so its "
            "samples cannot have different adapters; call the model once for each adapter, after `set_adapter`"
        )
