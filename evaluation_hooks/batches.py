"""Which rows of a last batch are repeats, by the rule of `accelerator.gather_for_metrics`."""

from __future__ import annotations

from accelerate import Accelerator


def has_repeats(accelerator: Accelerator, rows: int) -> bool:
    """Tell whether a distributed loader filled up the current batch, on any process, with rows it had already served.

    Every process with the same number of rows gets the same answer, so it may decide whether to run a collective.

    Args:
        accelerator: whose prepared loader is being iterated.
        rows: of this process's batch.

    >>> has_repeats(Accelerator(cpu=True), 4)
    False
    """
    state = accelerator.gradient_state
    is_last = state.in_dataloader and state.end_of_dataloader
    return is_last and 0 < state.remainder < rows * accelerator.num_processes


def valid_rows(accelerator: Accelerator, rows: int) -> int:
    """Count the rows of this process's current batch that are not repeats; they come first.

    Args:
        accelerator: whose prepared loader is being iterated.
        rows: of this process's batch.

    Returns:
        A number from 0 (all rows are repeats) to `rows`.

    >>> valid_rows(Accelerator(cpu=True), 4)
    4
    """
    if not has_repeats(accelerator, rows):
        return rows
    return max(0, min(rows, accelerator.gradient_state.remainder - accelerator.process_index * rows))


def counted_rows(accelerator: Accelerator, rows: int) -> int:
    """Count the rows of the current batches of all processes that are not repeats.

    Args:
        accelerator: whose prepared loader is being iterated.
        rows: of this process's batch; the others have as many.

    >>> counted_rows(Accelerator(cpu=True), 4)
    4
    """
    if has_repeats(accelerator, rows):
        return int(accelerator.gradient_state.remainder)
    return rows * accelerator.num_processes
