"""A warning at the first backward pass about adapters that no gradient reaches, or one that float16 has lost.

Layers that are never called get none.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from deep_lora.layers.finding import adapted_layers
from deep_lora.layers.first_step import watch_step
from deep_lora.layers.fused import is_plain

_NAMED = 5
_TOLD: WeakSet[nn.Module] = WeakSet()


def told(model: nn.Module) -> bool:
    """Tell whether the user has been told what no gradient reaches in the model, or in one inside it."""
    return any(module in _TOLD for module in model.modules())


def watch(model: nn.Module) -> None:
    """Look at the next backward pass through the model's outputs, once; a second call before it changes nothing."""
    if not _own_hooks(model):
        model.register_forward_hook(_watch_backward)


def unwatch(model: nn.Module) -> None:
    """Take the hook off the model, if it has not done its work yet."""
    for key in _own_hooks(model):
        del model._forward_hooks[key]


@contextmanager
def unwatched(model: nn.Module) -> Iterator[None]:
    """Let backward passes of the block count for nothing, in the model and in those inside it."""
    held = [(module, {key: module._forward_hooks.pop(key) for key in _own_hooks(module)}) for module in model.modules()]
    try:
        yield
    finally:
        for module, hooks in held:
            module._forward_hooks.update(hooks)


def _own_hooks(model: nn.Module) -> list[int]:
    return [key for key, hook in model._forward_hooks.items() if hook is _watch_backward]


def _watch_backward(model: nn.Module, args: Any, output: Any) -> None:
    """Listen to every trained tensor of the adapter; a forward hook, which is a plain function so that it pickles."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    outputs = [tensor for tensor in _tensors(output) if tensor.requires_grad]
    trained = _trained_tensors(model)
    if outputs and trained:
        unwatch(model)
        _Listener(model, trained, outputs)


def _trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(layer, part)[adapter]
        for name, layer in adapted_layers(model).items()
        for part in layer.adapter_layer_names
        for adapter in getattr(layer, part)
        if getattr(layer, part)[adapter].requires_grad
    }


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _tensors(value)


class _Listener:
    """Hooks of one graph: which tensors a gradient reaches before its backward pass ends."""

    def __init__(self, model: nn.Module, trained: dict[str, Tensor], outputs: list[Tensor]) -> None:
        self.model, self.trained, self.begun = model, trained, False
        self.reached: set[str] = set()
        tensors = [*model.parameters(), *outputs]
        self.may_underflow = all(map(is_plain, tensors)) and any(t.dtype == torch.float16 for t in tensors)
        self.with_values: list[Tensor] = []
        self.handles = [output.register_hook(self._begin) for output in outputs]
        self.handles += [tensor.register_hook(self._reach(name)) for name, tensor in trained.items()]

    def _begin(self, gradient: Tensor) -> None:
        if not self.begun:
            self.begun = True
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(self._end)

    def _reach(self, name: str) -> Any:
        def reach(gradient: Tensor) -> None:
            self.reached.add(name)
            if self.may_underflow:
                self.with_values.append(gradient.detach().any())

        return reach

    def _end(self) -> None:
        for handle in self.handles:
            handle.remove()
        if not self.reached and all(parameter.grad is None for parameter in self.model.parameters()):
            watch(self.model)  # a derivative by something else, such as the input
            return
        watch_step(self.model)
        if self.with_values and not any(map(bool, self.with_values)):
            warnings.warn(
                "all gradients of the adapter were zero in the first backward pass, which float16 makes of what is "
                "below 6e-8: scale the loss (`torch.amp.GradScaler`, or `fp16=True` in a Trainer), or use bfloat16",
                stacklevel=2,
            )
        idle = sorted({name.rpartition(".")[0] for name in self.trained.keys() - self.reached})
        if idle:
            _TOLD.add(self.model)
            warnings.warn(
                f"no gradient reached {len(self.trained) - len(self.reached)} of {len(self.trained)} tensors of the "
                f"adapter in the first backward pass: the model does not call these modules, or the loss does not "
                f"depend on them; leave them out with `exclude_modules`: {', '.join(idle[:_NAMED])}"
                + (f" and {len(idle) - _NAMED} more" if len(idle) > _NAMED else ""),
                stacklevel=2,
            )
