"""Columns of texts."""

from __future__ import annotations

from datasets import Value

from training.data import Splits
from training.errors import UsageError
from training.settings.data import TextDataArguments


def text_columns(data: TextDataArguments) -> list[str]:
    """Return the columns that make up the input."""
    return [data.text_column] + ([data.text_pair_column] if data.text_pair_column else [])


def require_text(splits: Splits, columns: list[str]) -> None:
    """Raise if a column does not hold strings.

    Raises:
        UsageError: the text names the column and what it holds.
    """
    for name, split in splits.items():
        for column in columns:
            feature = split.features[column]
            if not isinstance(feature, Value) or feature.dtype not in ("string", "large_string"):
                held = getattr(feature, "dtype", feature)
                raise UsageError(f"column {column!r} of the {name} data holds {held}; every entry must be a text")
