"""Streams that may be read only once: what a callback takes from them comes again in training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset


class Replayed(IterableDataset):
    """A stream whose first pass is a trial: the second begins with what the first has taken, and continues from there.

    Later passes start the stream itself over, as each pass did before. Everything else is asked of the stream.

    >>> stream = Replayed(iter("abc"))
    >>> next(iter(stream)), list(stream)
    ('a', ['a', 'b', 'c'])
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._taken: list[Any] = []
        self._rest: Iterator[Any] | None = None
        self._passes = 0

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        if self._passes == 1:
            yield from self._trial()
        elif self._rest is not None:
            taken, rest = self._taken, self._rest
            self._taken, self._rest = [], None
            yield from taken
            yield from rest
        else:
            yield from self.stream

    def _trial(self) -> Iterator[Any]:
        self._rest = iter(self.stream)
        for item in self._rest:
            self._taken.append(copy.deepcopy(item))  # collators may change what they are given
            yield item

    def __len__(self) -> int:
        return len(self.stream)

    def __getattr__(self, name: str) -> Any:
        if name == "stream":  # not set yet, as in a copy that is being made
            raise AttributeError("the copy of a stream has no stream yet")
        return getattr(self.stream, name)


def replay_(dataloader: Any) -> None:
    """Make a dataloader of a stream, read in this process, give its first batches a second time.

    Workers hold copies of the stream, of which each pass makes new ones.
    """
    loader = getattr(dataloader, "base_dataloader", dataloader)  # accelerate wraps it
    stream = getattr(loader, "dataset", None)
    if isinstance(stream, IterableDataset) and not getattr(loader, "num_workers", 0):
        vars(loader)["dataset"] = Replayed(stream)  # torch's own __setattr__ refuses another data set
