"""Tensors of an adapter whose values accelerate keeps elsewhere: in the memory of the host, or on a disk.

accelerate brings values in when a module is called and takes them out again after the call. The containers of U, the
cores and V are never called, so their values are fetched here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, remove_hook_from_module
from accelerate.utils.modeling import named_module_tensors, set_module_tensor_to_device
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
    value = _kept(hook.weights_map, name).to(hook.execution_device, dtype=tensor.dtype).detach()
    if tensor.requires_grad and torch.is_grad_enabled():
        value.requires_grad_().register_hook(_refuse_gradient)
    return value


def _kept(weights: Any, name: str) -> Tensor:
    """Return what is kept of a container under a name.

    Where PEFT loads an adapter onto a base with parts on a disk, it enters `layer.deep_lora_U.adapter` under the name
    `layer.adapter.deep_lora_U`, the order in LoRA's layers.
    """
    whole = f"{getattr(weights, 'prefix', '')}{name}"
    held = getattr(weights, "dataset", weights)
    *path, container, adapter_name = ["", *whole.split(".")]
    swapped = ".".join([*path, adapter_name, container]).removeprefix(".")
    kept: Tensor = held[swapped] if whole not in held and swapped in held else held[whole]
    return kept


def is_empty(container: Any, name: str) -> bool:
    """Tell whether a tensor of a container has no value, neither in it nor where accelerate would keep it.

    >>> is_empty(nn.ParameterDict({"default": nn.Parameter(torch.ones(2, device="meta"))}), "default")
    True
    """
    return container[name].device.type == "meta" and offloading_hook(container) is None


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model, with the values of what is offloaded.

    >>> list(whole_state(nn.Linear(2, 2)))
    ['weight', 'bias']
    """
    state: dict[str, Tensor] = model.state_dict()
    for path, module in model.named_modules():
        hook = offloading_hook(module)
        if hook is None:
            continue
        for name, tensor in named_module_tensors(module, recurse=hook.place_submodules):
            key = f"{path}.{name}" if path else name
            if key in state and tensor.device.type == "meta":
                state[key] = hook.weights_map[name]
    return state


def _refuse_gradient(gradient: Tensor) -> None:
    raise RuntimeError(
        "accelerate offloads the adapter, so its gradient would be lost; to train, make the adapter after the base "
        "model was dispatched or offloaded, or keep the model on one device"
    )


def settle_(container: Any) -> None:
    """Load a container's tensors permanently: accelerate's hook only knows the tensors it was attached with."""
    hook = offloading_hook(container)
    if hook is None:
        return
    values = {name: (fetched(container, name).detach(), container[name].requires_grad) for name in list(container)}
    hook.original_devices = {}  # it would put the tensors back where they came from
    remove_hook_from_module(container)
    for name, (value, trainable) in values.items():
        container[name] = nn.Parameter(value, trainable) if isinstance(container, nn.ParameterDict) else value


def settle_all_(module: nn.Module) -> None:
    """Load what accelerate offloads of a module that is to be trained permanently, apart from what it keeps."""
    for part in module.modules():
        hook = offloading_hook(part)
        if hook is None:
            continue
        tensors = dict(named_module_tensors(part, recurse=hook.place_submodules))
        kept = {
            name: hook.weights_map[name].clone() for name, tensor in tensors.items() if tensor.device.type == "meta"
        }
        hook.original_devices = {}  # as above
        remove_hook_from_module(part)
        for name, value in kept.items():
            set_module_tensor_to_device(part, name, hook.execution_device, value=value)


def check_biases_here(model: nn.Module) -> None:
    """Check that no bias is offloaded.

    Raises:
        ValueError: one is.

    >>> check_biases_here(nn.Linear(2, 2))
    """
    for name, module in model.named_modules():
        bias = module._parameters.get("bias")
        if bias is not None and bias.device.type == "meta" and offloading_hook(module) is not None:
            raise ValueError(
                f"accelerate offloads {name}.bias, so what `bias` in the config trains or loads of it would be lost; "
                "leave `bias` at 'none', or keep the base model on one device"
            )


def device_of_base(base_layer: nn.Module, weight: Tensor | None) -> torch.device | None:
    """Return the device on which a base layer is computed, that of its weight if it is not offloaded.

    None if nobody knows: the weight is on the meta device, and whoever put it there will say later where it goes.

    >>> layer = nn.Linear(2, 2)
    >>> device_of_base(layer, layer.weight)
    device(type='cpu')
    """
    hook = offloading_hook(base_layer)
    if hook is not None and hook.execution_device is not None:
        return torch.device(hook.execution_device)
    return None if weight is None or weight.device.type == "meta" else weight.device


@contextmanager
def brought_in(module: nn.Module) -> Iterator[None]:
    """Hold the tensors of an offloaded module in place during the block; changes of them are forgotten after it."""
    hook = offloading_hook(module)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


@contextmanager
def unhooked(module: nn.Module) -> Iterator[None]:
    """Hold the tensors of an offloaded module in place during the block, and let its forward pass leave them alone."""
    if offloading_hook(module) is None:
        yield
        return
    holder: Any = module
    hooked = holder.forward
    with brought_in(module):
        holder.forward = holder._old_forward
        try:
            yield
        finally:
            holder.forward = hooked


@contextmanager
def weight_in_place(layer: Any) -> Iterator[bool]:
    """Hold the base weight of an adapted layer in place, so that it can be changed, and keep the change.

    Yields whether the weight is offloaded. It must not be changed in place then: what accelerate keeps of a tied weight
    may share its memory.

    Raises:
        ValueError: the weight has no value.
    """
    base = layer.get_base_layer()
    hook = offloading_hook(base)
    if hook is None:
        _check_value(layer)
        yield False
        return
    held = layer.get_base_weight().device.type != "meta"  # PEFT may have brought it in already
    with nullcontext() if held else brought_in(base):
        _check_value(layer)
        yield True
        hook.weights_map = {name: tensor.to("cpu") for name, tensor in named_module_tensors(base)}


def _check_value(layer: Any) -> None:
    if layer.get_base_weight().device.type == "meta":
        raise ValueError(
            "the base weight is on the meta device, so nothing can be merged into it; load the weights of the base "
            "model first"
        )
