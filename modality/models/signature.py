"""The signature of a wrapper's forward pass, as a Trainer reads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from modality.temperature.finding import base_model_of

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class NamesInputsOfModel:
    """Make a method whose signature on an object also has the arguments that `self.model` takes.

    Trainer drops the columns of a data set that the signature of `forward` does not name, so a wrapper has to name what
    the model in it takes. On the class the method is the plain function.

    >>> class Inner:
    ...     def forward(self, a, mask=None): return a
    >>> class Wrapper:
    ...     model = Inner()
    ...     @NamesInputsOfModel
    ...     def forward(self, a, ids=None, **inputs): return a
    >>> list(inspect.signature(Wrapper().forward).parameters), Wrapper().forward(3)
    (['a', 'ids', 'mask', 'inputs'], 3)
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self.function if instance is None else BoundMethod(self.function, instance)


class BoundMethod:
    """A function bound to a wrapper, as methods are, with the signature described above."""

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.__func__, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        own = list(inspect.signature(self.__func__).parameters.values())[1:]
        names = {parameter.name for parameter in own}
        theirs = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(base_model_of(self.__self__.model).forward).parameters.items()
            if name not in names and parameter.kind in (*POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        ]
        return inspect.Signature(sorted([*own, *theirs], key=lambda parameter: parameter.kind))
