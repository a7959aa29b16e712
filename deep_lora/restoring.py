"""Change the state of a model or of the random generators for a moment and put it back, even after an error."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def gradients_put_aside(model: nn.Module) -> Iterator[None]:
    """Give every parameter back the `.grad` it had before."""
    before = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for everything, but activation checkpointing stays on (transformers ties it to training mode)."""
    training = {module: module.training for module in model.modules()}
    checkpointed = [m for m in training if m.training and getattr(m, "gradient_checkpointing", False)]
    handles: list[RemovableHandle] = []
    try:
        model.eval()
        for module in checkpointed:  # training while it decides to checkpoint, evaluating while it computes
            module.training = True
            handles.append(module.register_forward_pre_hook(lambda m, args: setattr(m, "training", False)))
            handles.append(
                module.register_forward_hook(lambda m, args, out: setattr(m, "training", True), always_call=True)
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, was_training in training.items():
            module.training = was_training


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's generators are afterwards as they were before."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
