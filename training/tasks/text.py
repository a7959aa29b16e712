"""The options of text data, and the check that texts are texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import Value

from training.data import Splits
from training.errors import UsageError
from training.settings.common import DataArguments, option

TASKS = ("classification", "regression", "token_classification", "causal_lm", "seq2seq")


@dataclass
class TextDataArguments(DataArguments):
    """Texts and what is to be predicted from them."""

    task: str = option("classification", f"What is predicted: {', '.join(TASKS)}.")
    glue: str | None = option(None, "A GLUE task by name (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli).")
    text_column: str = option("text", "Column with the text (token_classification: with the words).")
    text_pair_column: str | None = option(None, "Column with a second text, for pairs of sentences.")
    target_column: str | None = option(
        None, "seq2seq: column with the text to generate. causal_lm: what follows the text; the loss is on it alone."
    )
    max_length: int = option(128, "Tokens after which a text is cut off.")
    predict_with_generate: bool = option(
        False, "seq2seq: also generate texts at each evaluation, and compare them with the target (ROUGE-L, BLEU)."
    )
    num_beams: int = option(1, "Beams of that generation; 1 takes the likeliest token each time.")
    max_new_tokens: int | None = option(None, "Tokens after which a generated text ends; --max_length if unset.")
    metrics: list[str] | None = field(
        default=None,
        metadata={"help": "Metrics by name, the most important first; otherwise those usual for the task."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise UsageError(f"--task got {self.task!r}; choose one of: {', '.join(TASKS)}")
        if self.max_length < 2:
            raise UsageError(f"--max_length got {self.max_length}; a text needs at least 2 tokens")
        if self.predict_with_generate and self.task != "seq2seq":
            raise UsageError(f"--predict_with_generate needs --task seq2seq; --task {self.task} has no text to compare")
        for name in ("num_beams", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} got {value}; it must be at least 1")


def text_columns(data: TextDataArguments) -> list[str]:
    """The columns that make up the input."""
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
