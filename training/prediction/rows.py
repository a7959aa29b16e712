"""Logits as the columns of a row of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def class_row(logits: Float[Tensor, " classes"], names: Sequence[str]) -> dict[str, Any]:
    """Return the likeliest class, its probability, and those of all classes.

    >>> class_row(torch.tensor([0.0, 0.0, 100.0]), ["a", "b", "c"])["prediction"]
    'c'
    """
    probabilities = torch.softmax(logits.double(), dim=-1).tolist()
    best = max(range(len(names)), key=probabilities.__getitem__)
    each = {f"probability of {name}": value for name, value in zip(names, probabilities, strict=True)}
    return {"prediction": names[best], "probability": probabilities[best], **each}


def labels_row(logits: Float[Tensor, " labels"], names: Sequence[str]) -> dict[str, Any]:
    """Return the labels that are likelier than not, and the probabilities of all.

    >>> labels_row(torch.tensor([3.0, -3.0, 1.0]), ["a", "b", "c"])["prediction"]
    ['a', 'c']
    """
    probabilities = torch.sigmoid(logits.double()).tolist()
    held = [name for name, value in zip(names, probabilities, strict=True) if value > 0.5]
    return {
        "prediction": held,
        **{f"probability of {name}": one for name, one in zip(names, probabilities, strict=True)},
    }


def number_row(logits: Float[Tensor, " 1"]) -> dict[str, Any]:
    """Return the predicted number."""
    return {"prediction": float(logits.reshape(-1)[0])}


def tag_row(words: Sequence[Float[Tensor, " tags"] | None], names: Sequence[str]) -> dict[str, Any]:
    """Return the likeliest tag of each word; None for words that were cut off, or have no token.

    >>> tag_row([torch.tensor([0.0, 1.0]), None], ["A", "B"])
    {'prediction': ['B', None]}
    """
    return {"prediction": [None if one is None else names[int(one.argmax())] for one in words]}
