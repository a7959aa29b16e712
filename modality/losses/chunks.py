"""Batches of any size in fixed memory: embeddings chunk by chunk, computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import get_device_states, set_device_states


def encode_in_chunks(
    encode: Callable[[Any], Tensor],
    inputs: Any,
    chunk_size: int | None,
    parameters: Iterable[nn.Parameter] | None = None,
) -> Float[Tensor, "n d"]:
    """Compute `encode(inputs)` with the activations of one chunk in memory at a time.

    The first pass keeps only the embeddings; the backward pass runs each chunk again, with the random numbers that it
    had, and backpropagates the gradient of the loss with respect to its embeddings. The gradient is that of the whole
    batch, dropout included, for one more forward pass. Parameters receive it once, summed, through the usual graph, so
    Trainer, DDP and gradient accumulation work as usual. Together with `contrastive_loss(..., block_size=)` the
    memory of a step grows with the batch by little more than the inputs and the embeddings themselves.

        x = encode_in_chunks(image_tower, images, 64)
        contrastive_loss(x, y, 20.0, block_size=256).backward()

    Rows must not depend on each other: batch normalization takes each chunk as a batch, and updates its running means
    twice. Towers with sharded parameters (FSDP, ZeRO-3) cannot be chunked. Checkpointing inside `encode` must not be
    reentrant: that kind passes gradients past the parameters that are asked for here.

    Args:
        encode: inputs of some rows -> embeddings of these rows.
        inputs: a tensor, or a nested mapping, list or tuple of tensors, all with the batch first; other values are
            passed on unchanged.
        chunk_size: rows at a time; None for all at once.
        parameters: what `encode` uses; those of `encode` itself if it is a module.

    Raises:
        ValueError: for an invalid size, inputs with different numbers of rows, outputs that are not one embedding for
            each row, or a function without `parameters`; in the backward pass, for reentrant checkpointing.

    Source: Gao et al., RepL4NLP 2021 (GradCache).

    >>> encode_in_chunks(nn.Linear(3, 4), torch.ones(5, 3), chunk_size=2).shape
    torch.Size([5, 4])
    """
    if chunk_size is None:
        return encode(inputs)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"`chunk_size` must be a positive number of rows, or None, got {chunk_size!r}")
    if parameters is None:
        if not isinstance(encode, nn.Module):
            raise ValueError(
                "pass the parameters that the function uses as `parameters=`; chunks need them for their gradients"
            )
        parameters = encode.parameters()
    leaves, structure = tree_flatten(_plain(inputs))
    counts = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
    if len(counts) != 1:
        raise ValueError(
            f"inputs are cut along the first axis, so all of them need the same number of rows; got {sorted(counts)}"
        )
    (count,) = counts
    if count <= chunk_size:
        return encode(inputs)
    chunks = _Chunks(encode, leaves, structure, count, chunk_size)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _Encode.apply(chunks, *chunks.differentiable(leaves), *trained)


class _Chunks(NamedTuple):
    encode: Callable[[Any], Tensor]
    leaves: list[Any]
    structure: TreeSpec
    num_rows: int
    size: int

    def __call__(self, start: int) -> tuple[Tensor, list[Tensor]]:
        """Return the embeddings of the rows from `start` on, and their inputs that need a gradient."""
        rows = slice(start, start + self.size)
        leaves = [
            leaf[rows].detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
            for leaf in self.leaves
        ]
        return self.encode(tree_unflatten(leaves, self.structure)), self.differentiable(leaves)

    def starts(self) -> range:
        return range(0, self.num_rows, self.size)

    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @staticmethod
    def differentiable(leaves: list[Any]) -> list[Tensor]:
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, chunks: _Chunks, *differentiated: Tensor) -> Tensor:
        ctx.chunks, ctx.differentiated, ctx.autocast = chunks, differentiated, _autocast(chunks)
        # Embeddings and states in one tensor each: small ones that stay, between large ones that go, break up the heap.
        embeddings: Tensor | None = None
        ctx.states = torch.get_rng_state().new_empty(len(chunks.starts()), len(torch.get_rng_state()))
        ctx.device_states = []
        for state, start in zip(ctx.states, chunks.starts(), strict=True):
            state.copy_(torch.get_rng_state())
            ctx.device_states.append(get_device_states(*chunks.tensors()))
            part = chunks(start)[0]
            _check_rows(part, min(chunks.size, chunks.num_rows - start))
            if embeddings is None:
                embeddings = part.new_empty(chunks.num_rows, *part.shape[1:])
            embeddings[start : start + len(part)] = part
        assert embeddings is not None
        return embeddings

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        chunks: _Chunks = ctx.chunks
        inputs = len(chunks.differentiable(chunks.leaves))
        parameters = ctx.differentiated[inputs:]
        of_inputs: list[tuple[Tensor | None, ...]] = []
        totals: list[Tensor | None] = [None] * len(parameters)
        of_chunks = zip(chunks.starts(), ctx.states, ctx.device_states, gradient.split(chunks.size), strict=True)
        for start, state, device_states, rows in of_chunks:
            with torch.enable_grad(), _random_state(state, *device_states), torch.autocast(**ctx.autocast):
                embeddings, leaves = chunks(start)
            if start == 0:
                _refuse_reentrant_checkpoints(embeddings)
            found = torch.autograd.grad(embeddings, [*leaves, *parameters], rows, allow_unused=True)
            of_inputs.append(found[:inputs])
            totals = [_added(total, part) for total, part in zip(totals, found[inputs:], strict=True)]
        whole = [_joined(parts) for parts in zip(*of_inputs, strict=True)]
        return None, *whole, *totals


def _check_rows(embeddings: Any, rows: int) -> None:
    if not isinstance(embeddings, Tensor) or embeddings.dim() == 0 or len(embeddings) != rows:
        found = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ValueError(
            f"`encode` must return a tensor with one embedding for each row, got {found} for {rows} rows; pick the "
            "embeddings from what it returns, and sum over rows after the chunks are put together"
        )


def _refuse_reentrant_checkpoints(output: Tensor) -> None:
    """Raise if a node of the graph runs a backward pass of its own, whose gradients would be lost without a word."""
    waiting, seen = [output.grad_fn], {output.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if "Checkpoint" in node.name():
            raise ValueError(
                "chunks found reentrant checkpointing in the encoder, whose parameters would get no gradient; enable "
                'it with `use_reentrant=False` (Trainer: `gradient_checkpointing_kwargs={"use_reentrant": False}`), or '
                "leave out `chunk_size`"
            )
        further = {inner for inner, _ in node.next_functions} - seen
        seen |= further
        waiting.extend(further)


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """Add in place to a tensor of our own, since tensors that autograd returns may be shared."""
    if part is None:
        return total
    return part.clone() if total is None else total.add_(part)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def _autocast(chunks: _Chunks) -> dict[str, Any]:
    device = next(iter(chunks.tensors())).device.type
    return {
        "device_type": device, "enabled": torch.is_autocast_enabled(device), "dtype": torch.get_autocast_dtype(device),
    }  # fmt: skip


@contextmanager
def _random_state(state: Tensor, devices: list[int], device_states: list[Tensor]) -> Iterator[None]:
    with torch.random.fork_rng(devices):
        torch.set_rng_state(state.clone())  # it takes no view
        set_device_states(devices, device_states)
        yield


def _plain(inputs: Any) -> Any:
    """Turn BatchEncodings and other mappings, at any depth, into dictionaries, which pytree can take apart."""
    if isinstance(inputs, Mapping):
        return {name: _plain(value) for name, value in inputs.items()}
    return type(inputs)(map(_plain, inputs)) if type(inputs) in (list, tuple) else inputs
