"""Any batch on fixed memory: embeddings chunk by chunk, and once more in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint


def encode_in_chunks(encode: Callable[[Any], Tensor], inputs: Any, chunk_size: int | None) -> Float[Tensor, "n d"]:
    """`encode(inputs)`, row for row, with the activations of one chunk in memory at a time.

    The first pass keeps only the embeddings; the backward pass runs each chunk again, with the random numbers that it
    had, and goes through it with the gradient of the loss with respect to its embeddings. So the gradient is that of
    the whole batch, dropout included, for one more forward pass. It is part of the usual graph: Trainer, DDP and
    gradient accumulation need not know. Together with `contrastive_loss(..., block_size=)` the memory of a step no
    longer grows with the batch, but for the inputs and the embeddings themselves.

        x = encode_in_chunks(image_tower, images, 64)
        y = encode_in_chunks(lambda tokens: text_tower(**tokens), tokens, 64)
        contrastive_loss(x, y, 20.0, block_size=256).backward()

    Rows must not depend on each other: batch normalisation sees a chunk as its batch, and updates its running means
    twice.

    Args:
        encode: inputs of some rows -> embeddings of these rows.
        inputs: a tensor, or a nested mapping, list or tuple of tensors, all with the batch first; other values are
            passed on as they are.
        chunk_size: rows at a time; None for all at once.

    Raises:
        ValueError: for a size that is no number of rows, or inputs with different numbers of rows.

    Source: Gao et al., RepL4NLP 2021 (GradCache).

    >>> encode_in_chunks(lambda rows: 2 * rows, torch.ones(5, 3), chunk_size=2).shape
    torch.Size([5, 3])
    """
    if chunk_size is None:
        return encode(inputs)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"`chunk_size` must be a positive number of rows, or None, got {chunk_size!r}")
    leaves, structure = tree_flatten(_plain(inputs))
    counts = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
    if len(counts) != 1:
        raise ValueError(
            f"chunks are cut along the first axis, on which all inputs must agree; got {sorted(counts)} rows"
        )
    (count,) = counts
    if count <= chunk_size:
        return encode(inputs)
    embeddings = []
    for start in range(0, count, chunk_size):
        rows = slice(start, start + chunk_size)
        chunk = tree_unflatten([leaf[rows] if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
        if torch.is_grad_enabled():
            embeddings.append(checkpoint(encode, chunk, use_reentrant=False))
        else:
            embeddings.append(encode(chunk))
    return torch.cat(embeddings)


def _plain(inputs: Any) -> Any:
    """A BatchEncoding and other mappings as dictionaries, which can be taken apart."""
    return dict(inputs) if isinstance(inputs, Mapping) and type(inputs) is not dict else inputs
