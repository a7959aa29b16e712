"""A frozen linear layer and its update in one differentiable step, with one accumulator in each direction.

Autograd would form the update and the gradient of its input apart from those of the base layer and then add them: four
more passes over (tokens x features) than needed. Here both are accumulated onto the base layer's own products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from transformers.pytorch_utils import Conv1D

from deep_lora.functional import autocast_dtype, rows_of, transposed_factor

_PLAIN_TENSORS = (Tensor, nn.Parameter)


class FusedLinear(torch.autograd.Function):
    """`y = W x + b + U folded V^T x` for frozen W and b; returns y and `x V`.

    Kept for the backward pass: `x V` (tokens x r), and x if V is trained. `x V` is an output only so that second
    derivatives flow through it; with `create_graph=True` the backward pass is made of differentiable operations.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "tokens in"],
        weight: Float[Tensor, "out in"],
        bias: Float[Tensor, " out"] | None,
        V: Float[Tensor, "in r"],
        folded: Float[Tensor, "r r"],
        U: Float[Tensor, "out r"],
    ) -> tuple[Float[Tensor, "tokens out"], Float[Tensor, "tokens r"]]:
        y = F.linear(x, weight, bias)
        projected = F.linear(x.to(V.dtype), transposed_factor(V))
        _accumulate_(y, projected @ folded.mT, U)
        ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, weight, V, folded, U, projected)
        ctx.set_materialize_grads(False)
        return y, projected

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_projected: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, V, folded, U, projected = ctx.saved_tensors
        grad_x = grad_V = grad_folded = grad_U = None
        if grad_y is not None:
            wide = grad_y.to(U.dtype)
            grad_middle = F.linear(wide, transposed_factor(U))
            if ctx.needs_input_grad[5]:
                grad_U = _factor_gradient(wide, projected @ folded.mT)
            if ctx.needs_input_grad[4]:
                grad_folded = grad_middle.mT @ projected
            del wide
            through_y = grad_middle @ folded
            grad_projected = through_y if grad_projected is None else grad_projected + through_y
        if grad_projected is None:
            return (None,) * 6
        if ctx.needs_input_grad[3]:
            grad_V = _factor_gradient(x.to(V.dtype), grad_projected)
        if ctx.needs_input_grad[0]:
            base = weight.new_zeros(len(grad_projected), weight.shape[1]) if grad_y is None else grad_y @ weight
            grad_x = _accumulated(base, grad_projected, V)
        return grad_x, None, None, grad_V, grad_folded, grad_U


def _factor_gradient(
    wide: Float[Tensor, "tokens features"], rows: Float[Tensor, "tokens r"]
) -> Float[Tensor, "features r"]:
    """Return `wide^T rows` in the order of operands that CPUs like: at small r the other is up to 7 times slower."""
    return (rows.mT @ wide).mT if rows.shape[1] < 16 else wide.mT @ rows


def _accumulate_(accumulator: Tensor, rows: Tensor, factor: Tensor) -> Tensor:
    """Add `rows factor^T` to the accumulator in place."""
    if accumulator.dtype == rows.dtype:
        return accumulator.addmm_(rows, transposed_factor(factor))
    return accumulator.add_(rows @ factor.mT)


def _accumulated(base: Tensor, rows: Tensor, factor: Tensor) -> Tensor:
    """Return `base + rows factor^T`, overwriting `base` unless the backward pass is itself being recorded."""
    if not torch.is_grad_enabled():
        return _accumulate_(base, rows, factor)
    return base + (rows @ factor.mT).to(base.dtype)


def fused_linear(
    x: Float[Tensor, "*batch in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None,
    V: Float[Tensor, "in r"],
    folded: Float[Tensor, "r r"],
    U: Float[Tensor, "out r"],
) -> Float[Tensor, "*batch out"]:
    """Compute `W x + b + U folded V^T x` for frozen W and b, in the dtype of the base layer, or that of autocast.

    Factors may be of another dtype than x and W: the update is then computed in theirs.

    >>> eye = torch.eye(2)
    >>> fused_linear(torch.ones(1, 2), eye, None, eye[:, :1], torch.ones(1, 1), 2 * eye[:, 1:])
    tensor([[1., 3.]])
    """
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, V, folded, U = (tensor.to(dtype) for tensor in (x, weight, V, folded, U))
        bias = None if bias is None else bias.to(dtype)
    y, _ = FusedLinear.apply(rows_of(x), weight, bias, V, folded, U)
    return y.view(*x.shape[:-1], y.shape[-1])


def frozen_linear(base_layer: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return weight (out, in) and bias of a base layer that is nothing but a frozen matrix product; else None.

    A subclass, a hook, a replaced `forward`, a trained weight or bias, or a special tensor (quantized, sharded, ...)
    means that calling the layer may do something else.
    """
    if type(base_layer) not in (nn.Linear, Conv1D) or "forward" in vars(base_layer) or _has_hooks(base_layer):
        return None
    layer: Any = base_layer
    weight, bias = layer.weight, layer.bias
    for tensor in (weight, bias):
        if tensor is not None and (not is_plain(tensor) or tensor.requires_grad):
            return None
    return (weight.mT if type(base_layer) is Conv1D else weight), bias


def _has_hooks(module: nn.Module) -> bool:
    return any(
        (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
            torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks,
            torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks,
        )
    )  # fmt: skip


def is_plain(tensor: Tensor) -> bool:
    """Tell whether it is an ordinary tensor or parameter: not quantized, sharded, fake or otherwise special."""
    return type(tensor) in _PLAIN_TENSORS


def in_plain_eager_mode(*tensors: Tensor) -> bool:
    """Tell whether these are ordinary floating-point tensors outside of every transform.

    Compilers, tracers and functional transforms fuse or rewrite ordinary operations better than ours. Autocast leaves
    double precision only, which is easiest left to it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    if forward_ad._current_level >= 0:  # inside `dual_level`
        return False
    if not all(is_plain(tensor) and tensor.is_floating_point() for tensor in tensors):
        return False
    return autocast_dtype(tensors[0]) is None or all(tensor.dtype != torch.float64 for tensor in tensors)
