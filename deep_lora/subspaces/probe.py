"""Watch the gradient of adapted layers during a backward pass.

A probe on the output of a layer meets the layer's input and the gradient of its output in the backward pass, where
their products with G are cheap: `G M = delta^T (x M)`. One-pass linear sketches of G turn out useless here (the leading
singular values of real gradients lie within percents of each other: benchmarks/README.md), so the sketch builds a block
Krylov space on the spot and keeps the few leading singular triplets of the sum of all calls so far.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.subspaces.sketch import GradientSketch

Watched = list[tuple[str, DeepLoraLayer, bool]]


def watched_layers(
    model: nn.Module, layers: dict[str, DeepLoraLayer], sketches: dict[str, GradientSketch], adapter_name: str
) -> Watched:
    """Return the layers to probe, each with the name of its sketch.

    A tied layer adds its gradient to the sketch of the layer whose parameters it shares, a head (True) its transpose.
    """
    watched = [(name, layers[name], False) for name in sketches]
    owner = {id(layers[name].deep_lora_core[adapter_name]): name for name in sketches}
    for layer in adapted_layers(model).values():
        if adapter_name in layer.tied_to:
            name = owner.get(id(layer.deep_lora_core[adapter_name]))
            if name is not None:
                watched.append((name, layer, layer.exchanges(adapter_name)))
    return watched


@contextmanager
def probes(watched: Watched, sketches: dict[str, GradientSketch], calls: dict[str, int]) -> Iterator[None]:
    """Show each layer's input and output gradient to its sketch; `calls` counts forward passes."""
    handles: list[RemovableHandle] = []

    def watch(name: str, layer: DeepLoraLayer, tied: bool) -> None:
        sketch = sketches[name]
        anchor = torch.zeros((), device=sketch.device, requires_grad=True)

        def record(x: Tensor, grad_output: Tensor) -> None:
            sketch.finite = sketch.finite and all_finite(x, grad_output)
            if sketch.finite:
                operator = layer.gradient_operator(x, grad_output)
                sketch.update(operator.transpose() if tied else operator)

        def after_forward(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            calls[name] += 1
            x = args[0] if args else kwargs["x"]
            return GradientProbe.apply(output, anchor, x, record) if torch.is_grad_enabled() else output

        handles.append(layer.register_forward_hook(after_forward, with_kwargs=True))

    try:
        for name, layer, tied in watched:
            watch(name, layer, tied)
        yield
    finally:
        for handle in handles:
            handle.remove()


class GradientProbe(torch.autograd.Function):
    """Identity on a layer's output that shows the layer's input and the output's gradient to `record` in backward.

    The input is kept by `save_for_backward`, so activation checkpointing frees and recomputes it as usual. `anchor`
    is a scalar that requires grad: the output then does too, even if nothing else in the model is trainable yet.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, anchor: Tensor, x: Tensor, record: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.record = record
        return output.clone()  # not a view: the caller may overwrite it in place, as ReLU(inplace=True) does

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        with torch.no_grad(), torch.autocast(grad_output.device.type, enabled=False):
            ctx.record(ctx.saved_tensors[0], grad_output)
        return grad_output, None, None, None


def all_finite(*tensors: Tensor) -> bool:
    """Tell whether there is no NaN and no inf, without large temporaries: a sum carries them on (float32 or better)."""
    wide = torch.promote_types(torch.float32, functools.reduce(torch.promote_types, [t.dtype for t in tensors]))
    return bool(torch.isfinite(torch.stack([tensor.sum(dtype=wide) for tensor in tensors])).all())
