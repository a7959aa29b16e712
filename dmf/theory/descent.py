"""Training with stops, to look at a trajectory while it develops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer


def descend(
    loss: Callable[[], Float[Tensor, ""]], optimizer: Optimizer, num_steps: int, *, every: int = 1
) -> Iterator[tuple[int, float]]:
    """Train with any torch optimizer, and stop every `every` steps to look at the model.

    Weight decay, momentum and Adam are settings of the optimizer. SGD without momentum and with `weight_decay=lambda`
    is the gradient descent of the theory.

    Args:
        loss: computes the loss of the current parameters.
        optimizer: over the parameters to train.
        num_steps: at least 0.
        every: steps between two stops, at least 1.

    Yields:
        (step, loss) after that many steps, from (0, start) to (num_steps, end); the parameters are those of the loss.

    Raises:
        ValueError: if a number is out of range.
        FloatingPointError: if the loss stops being finite.

    >>> w = torch.nn.Parameter(torch.tensor(1.0))
    >>> [step for step, _ in descend(lambda: w.square(), torch.optim.SGD([w], lr=0.1), 5, every=2)]
    [0, 2, 4, 5]
    """
    if num_steps < 0 or every < 1:
        raise ValueError(
            f"num_steps must be at least 0 and every at least 1, got {num_steps} steps and every {every} steps"
        )
    for step in range(num_steps + 1):
        optimizer.zero_grad()
        value = loss()
        if step % every == 0 or step == num_steps:
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(f"the loss is {value.item()} after {step} steps; use a smaller learning rate")
            yield step, value.item()
        if step < num_steps:
            value.backward()
            optimizer.step()
