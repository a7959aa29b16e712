"""Tensors of an adapter whose values accelerate keeps elsewhere: in the memory of the host, or on a disk.

accelerate brings values in when a module is called and takes them out again after the call. The containers of U, the
cores and V are never called, so their values are fetched here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, remove_hook_from_module
from torch import Tensor, nn


def offloading_hook(module: nn.Module) -> AlignDevicesHook | None:
    """Return the hook by which accelerate keeps the module's tensors elsewhere; None if they are where they seem to be.

    >>> offloading_hook(nn.Linear(2, 2)) is None
    True
    """
    hook: Any = vars(module).get("_hf_hook")
    if hook is None:
        return None
    parts = getattr(hook, "hooks", (hook,))
    return next((part for part in parts if isinstance(part, AlignDevicesHook) and part.offload), None)


def fetched(container: Any, name: str) -> Tensor:
    """Return a tensor of a container, from where accelerate keeps it if it is offloaded.

    A gradient of an offloaded tensor has nowhere to go: the backward pass then stops with a `RuntimeError`.

    >>> fetched(nn.ParameterDict({"default": nn.Parameter(torch.ones(2))}), "default")
    Parameter containing:
    tensor([1., 1.], requires_grad=True)
    """
    tensor: Tensor = container[name]
    hook = offloading_hook(container)
    if hook is None or tensor.device.type != "meta":
        return tensor
    value = hook.weights_map[name].to(hook.execution_device, dtype=tensor.dtype).detach()
    if tensor.requires_grad and torch.is_grad_enabled():
        value.requires_grad_().register_hook(_refuse_gradient)
    return value


def _refuse_gradient(gradient: Tensor) -> None:
    raise RuntimeError(
        "accelerate offloads the adapter, so its gradient would be lost; to train, make the adapter after the base "
        "model was dispatched or offloaded, or keep the model on one device"
    )


def settle_(container: Any) -> None:
    """Bring the tensors of a container in for good, since accelerate's hook knows those alone that it was made with."""
    hook = offloading_hook(container)
    if hook is None:
        return
    values = {name: (fetched(container, name).detach(), container[name].requires_grad) for name in list(container)}
    hook.original_devices = {}  # it would put the tensors back where they came from
    remove_hook_from_module(container)
    for name, (value, trainable) in values.items():
        container[name] = nn.Parameter(value, trainable) if isinstance(container, nn.ParameterDict) else value


def device_of_base(base_layer: nn.Module) -> torch.device | None:
    """Return the device on which an offloaded base layer is computed; None if it is not offloaded."""
    hook = offloading_hook(base_layer)
    return None if hook is None or hook.execution_device is None else torch.device(hook.execution_device)


@contextmanager
def brought_in(module: nn.Module) -> Iterator[None]:
    """Hold the tensors of an offloaded module in place during the block; what happens to them is forgotten after it."""
    hook = offloading_hook(module)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)
