"""Columns of texts."""

from __future__ import annotations

from training.reading.kinds import text
from training.reading.tables import Wanted
from training.settings.data import TextDataArguments


def text_columns(data: TextDataArguments) -> list[str]:
    """Return the columns that make up the input."""
    return [data.text_column] + ([data.text_pair_column] if data.text_pair_column else [])


def wanted_texts(data: TextDataArguments) -> list[Wanted]:
    """Return the columns that make up the input, with what they must hold."""
    return [
        Wanted(name, text, option)
        for name, option in zip(text_columns(data), ("--text_column", "--text_pair_column"), strict=False)
    ]


def generation_columns(data: TextDataArguments) -> list[Wanted]:
    """Return the columns of the tasks that write texts."""
    target = [Wanted(data.target_column, text, "--target_column")] if data.target_column else []
    return [Wanted(data.text_column, text, "--text_column"), *target]
