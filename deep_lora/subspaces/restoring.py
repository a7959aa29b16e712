"""Change the state of a model for a moment and put it back, even after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


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
    """Turn evaluation mode on everywhere, but keep activation checkpointing (transformers ties it to training mode)."""
    training = {module: module.training for module in model.modules()}
    checkpoints = {
        module: module._gradient_checkpointing_func
        for module in training
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing and module.training
    }
    # bitsandbytes' 4-bit layers on CPUs with AVX512-BF16 repack their weights at the first forward pass in evaluation
    # mode, for a kernel that has no backward pass, and stay so.
    repacking: list[Any] = [module for module in training if getattr(module, "support_avx512bf16_for_cpu", False)]
    try:
        for module in repacking:
            module.support_avx512bf16_for_cpu = False
        model.eval()
        for module, checkpoint in checkpoints.items():
            module.training = True  # while it decides to checkpoint; what is checkpointed runs in evaluation mode
            module._gradient_checkpointing_func = _evaluating(module, checkpoint)
        yield
    finally:
        for module in repacking:
            module.support_avx512bf16_for_cpu = True
        for module, checkpoint in checkpoints.items():
            module._gradient_checkpointing_func = checkpoint
        for module, was_training in training.items():
            module.training = was_training


def _evaluating(module: nn.Module, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `checkpoint`: the module is in evaluation mode in the forward pass and again in the recomputation."""

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def evaluate(*inputs: Any, **options: Any) -> Any:
            module.training = False
            try:
                return function(*inputs, **options)
            finally:
                module.training = True

        return checkpoint(evaluate, *args, **kwargs)

    return run
