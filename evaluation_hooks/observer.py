"""`Observer`: hooks on a model that collect what runs through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


class Observer(ABC):
    """Collect what a model computes in evaluation mode, between `start` and `stop` while the hooks are attached.

    A subclass registers its hooks in `hooks`, which do nothing unless `is_watching`, and resets itself in `forget`.

    >>> class Calls(Observer):
    ...     def hooks(self): return [self.model.register_forward_hook(self.count)]
    ...     def forget(self): self.calls = 0
    ...     def count(self, *args): self.calls += self.is_watching
    >>> layer = nn.Identity()
    >>> calls = Calls(layer)
    >>> with calls.watching(): _ = layer(1)
    >>> _ = layer(2)
    >>> calls.calls
    1
    """

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        self._handles: list[RemovableHandle] = []
        self.is_watching = False
        self.point_at(model)
        self.forget()

    @abstractmethod
    def hooks(self) -> Iterable[RemovableHandle]:
        """Register the hooks on `self.model`."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what was collected."""

    def point_at(self, model: nn.Module) -> None:
        """Observe this model from now on and release the previous one; attached hooks move along."""
        was_attached = self.attached
        self.detach()
        self.model = model
        if was_attached:
            self.attach()

    def observes(self, model: nn.Module) -> bool:
        """Tell whether the hooks are on this model."""
        return self.attached and self.model is model

    @property
    def attached(self) -> bool:
        """Tell whether the hooks are on the model."""
        return bool(self._handles)

    def attach(self) -> None:
        """Put the hooks on the model."""
        self.detach()
        self._handles.extend(self.hooks())

    def detach(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def start(self) -> None:
        """Forget everything and collect from now on."""
        self.forget()
        self.is_watching = True

    def stop(self) -> None:
        """Collect no more; what was collected stays."""
        self.is_watching = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Attach the hooks and start afresh for the duration of the block."""
        self.attach()
        self.start()
        try:
            yield
        finally:
            self.stop()
            self.detach()
