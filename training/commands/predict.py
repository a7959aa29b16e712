"""`deep-lora predict`: classes, numbers, tags, texts or completed entries for new data, with a finished run."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from dmf import MatrixCompletion
from dmf.files import complete_file
from training.commands.complete import CompleteArguments, find_entries
from training.errors import UsageError, enough_memory
from training.models.loading import places_of
from training.names import MATRIX_NAMES, MODEL, PREDICTIONS
from training.prediction import models
from training.prediction.rows import class_row, labels_row, number_row, tag_row
from training.prediction.runs import FinishedRun, find_run, load_trained, read_run
from training.reading.kinds import picture, text
from training.reading.lists import words as word_lists
from training.reading.pictures import readable
from training.reading.sources import read_source, refuse_unused
from training.reading.tables import Wanted
from training.results.folders import require_writable, saving
from training.settings.data import LENGTH, FileArguments
from training.settings.parsing import option, parse

DESCRIPTION = """Predict with a finished run: classes with probabilities, numbers, tags, texts or entries of a matrix.

  deep-lora predict --run runs/reviews --data new.csv
  deep-lora predict --run runs/reviews --data new.csv --output new.jsonl

The data need the columns that the run was trained with. The output has a row for each row of the data, in the same
order: what was read, and the prediction. Tags are lists with one tag for each word."""


@dataclass
class PredictArguments(FileArguments):
    """What predicts, and for what."""

    _argument_group_name = "prediction"

    run: str | None = option(None, "Folder of a finished run (its --output_dir).")
    data: str | None = option(None, "A file, a folder or a data set with the texts, images or entries.")
    output: str | None = option(None, "The .csv or .jsonl file that is written; predictions.csv in --run if unset.")
    split: str | None = option(None, "Split of the data, if there are several.")
    model: str | None = option(None, "Base model, if it has moved.")
    trust_remote_code: bool = option(False, "Run Python code from the model's repository; otherwise it is refused.")
    text_column: str | None = option(None, "Column with the texts or words, if its name differs from the run's.")
    text_pair_column: str | None = option(None, "Column with the second texts, if its name differs from the run's.")
    image_column: str | None = option(None, "Column with the images, if its name differs from the run's.")
    max_length: int | None = option(None, "Tokens after which a text is cut off; as in the run if unset.")
    max_new_tokens: int | None = option(None, "Maximum number of tokens to generate; as in the run if unset, or 128.")
    batch_size: int = option(32, "Rows per forward pass.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} got {value}; it must be at least 1")
        if self.output is not None and Path(self.output).suffix not in (".csv", ".jsonl"):
            raise UsageError(f"--output got {self.output!r}; it must end in .csv or .jsonl")


TYPES = (PredictArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    (arguments,) = parse(TYPES, words, command="predict", description=DESCRIPTION)
    if not arguments.run or not arguments.data:
        raise UsageError("predict needs --run, the folder of a finished run, and --data, what to predict for")
    run = find_run(Path(arguments.run)) or read_run(Path(arguments.run))
    output = Path(arguments.output) if arguments.output else run.folder / PREDICTIONS
    if output.exists() and Path(arguments.data).exists() and output.samefile(arguments.data):
        raise UsageError(f"--output {output} is also the file of --data; pass another name")
    require_writable(output.parent, "the folder of --output")
    rows = predicted(run, arguments)
    with saving(str(output), "nothing is kept"):
        output.parent.mkdir(parents=True, exist_ok=True)
        write(output, rows)
    print(f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'} predicted, written to {output}")
    return 0


def predicted(run: FinishedRun, arguments: PredictArguments) -> list[dict[str, Any]]:
    """Return what was read of each row, and its prediction.

    Raises:
        UsageError: the run has a task without predictions, or the data do not fit it.
    """
    if run.task == "complete":
        _refuse_unused(run, arguments)
        return _completed(run, arguments)
    if run.task not in _TASKS:
        raise UsageError(
            f"deep-lora predict does not know the task {run.task!r}; it knows complete, {', '.join(_TASKS)}"
        )
    _refuse_unused(run, arguments)
    wanted, predict = _TASKS[run.task]
    columns = wanted(run, arguments)
    data = _read(arguments, columns)
    model, processor = load_trained(run, arguments.model, trust=arguments.trust_remote_code)
    with enough_memory("pass a smaller --batch_size"):
        found = list(predict(run, arguments, model, processor, data, [one.name for one in columns]))
    _tell_of_cuts([lost for _, lost in found])
    if clash := sorted(found[0][0].keys() & set(data.column_names)):
        raise UsageError(f"the column {clash[0]!r} of the data has the name of a prediction; rename it")
    return [_shown(row) | new for row, (new, _) in zip(data, found, strict=True)]


def _refuse_unused(run: FinishedRun, arguments: PredictArguments) -> None:
    """Raise if an option has no effect on the predictions of this task."""
    pairs = ("text_pair_column",) if run.results["settings"].get("text_pair_column") else ()
    of_models = ("model", "trust_remote_code")
    used = {
        "complete": (), "image_classification": ("image_column", *of_models),
        "causal_lm": ("text_column", "max_length", "max_new_tokens", *of_models),
        "seq2seq": ("text_column", "max_length", "max_new_tokens", *of_models),
    }.get(run.task, ("text_column", "max_length", *pairs, *of_models))  # fmt: skip
    every = ("text_column", "text_pair_column", "image_column", "max_length", "max_new_tokens", *of_models)
    for name in every:
        if name not in used and getattr(arguments, name) != getattr(PredictArguments, name):
            raise UsageError(f"--{name} has no effect on a run of the task {run.task}; leave it out")


def _read(arguments: PredictArguments, columns: list[Wanted]) -> Dataset:
    refuse_unused(arguments, [arguments.data])
    splits = read_source(str(arguments.data), arguments, images=any(one.kind is picture for one in columns))
    name = arguments.split or next(iter(splits))
    if name not in splits or (arguments.split is None and len(splits) > 1):
        raise UsageError(f"{arguments.data} has the splits {list(splits)}; choose with --split")
    return splits[name](columns)


def _texts(run: FinishedRun, arguments: PredictArguments) -> list[Wanted]:
    first = Wanted(run.setting("text_column", arguments.text_column), text, "--text_column")
    second = run.setting("text_pair_column", arguments.text_pair_column if run.setting("text_pair_column") else None)
    return [first, *([Wanted(second, text, "--text_pair_column")] if second else [])]


def _one_text(run: FinishedRun, arguments: PredictArguments) -> list[Wanted]:
    return _texts(run, arguments)[:1]


def _words(run: FinishedRun, arguments: PredictArguments) -> list[Wanted]:
    return [Wanted(run.setting("text_column", arguments.text_column), word_lists, "--text_column")]


def _pictures(run: FinishedRun, arguments: PredictArguments) -> list[Wanted]:
    return [Wanted(run.setting("image_column", arguments.image_column), picture, "--image_column")]


def _length(run: FinishedRun, arguments: PredictArguments) -> int:
    return int(run.setting("max_length", arguments.max_length) or LENGTH)


def _classes_of_texts(
    run: FinishedRun, arguments: PredictArguments, model: Any, tokenizer: Any, data: Dataset, columns: list[str]
) -> Iterable[tuple[dict[str, Any], int]]:
    length, batch = _length(run, arguments), arguments.batch_size
    for logits, lost in models.classify_texts(model, tokenizer, data, columns, length, batch):
        yield _ROWS[run.task](logits, run.names), lost


def _classes_of_pictures(
    run: FinishedRun, arguments: PredictArguments, model: Any, processor: Any, data: Dataset, columns: list[str]
) -> Iterable[tuple[dict[str, Any], int]]:
    readable(data, columns[0], "given", None)
    for logits, lost in models.classify_pictures(model, processor, data, columns[0], arguments.batch_size):
        yield class_row(logits, run.names), lost


def _tags(
    run: FinishedRun, arguments: PredictArguments, model: Any, tokenizer: Any, data: Dataset, columns: list[str]
) -> Iterable[tuple[dict[str, Any], int]]:
    _refuse_tagged(data[columns[0]], run.names)
    length, batch = _length(run, arguments), arguments.batch_size
    for logits, lost in models.tag_words(model, tokenizer, data, columns[0], length, batch):
        yield tag_row(logits, run.names), lost


def _refuse_tagged(rows: Iterable[Sequence[str]], names: Sequence[str]) -> None:
    """Raise if each row ends in a tag, as the lines of a .txt file with a word and its tag in each."""
    if all(len(row) > 1 and row[-1] in names for row in rows):
        raise UsageError(
            "each row of --data ends in a tag, as if it were a word; if each line is a word with its tag, name the "
            "file .conll"
        )


def _written(
    run: FinishedRun, arguments: PredictArguments, model: Any, tokenizer: Any, data: Dataset, columns: list[str]
) -> Iterable[tuple[dict[str, Any], int]]:
    new, length = _room(run, arguments, model.config)
    settings, batch = {"max_new_tokens": new, "num_beams": int(run.setting("num_beams") or 1)}, arguments.batch_size
    for found, lost in models.write_texts(model, tokenizer, data, columns[0], length, batch, **settings):
        yield {"prediction": found}, lost


def _room(run: FinishedRun, arguments: PredictArguments, config: Any) -> tuple[int, int]:
    """Return how many tokens are written, and after how many a text is cut off.

    Raises:
        UsageError: the model has no places for both.
    """
    places, length = places_of(config.get_text_config()), _length(run, arguments)
    new = run.setting("max_new_tokens", arguments.max_new_tokens) or int(min(LENGTH, places // 2))
    if new >= places:
        raise UsageError(
            f"--max_new_tokens got {new}; the model has {places} positions for the text and its answer; pass fewer"
        )
    return new, length if config.is_encoder_decoder else int(min(length, places - new))


_ROWS: dict[str, Callable[[Any, list[str]], dict[str, Any]]] = {
    "classification": class_row,
    "multilabel": labels_row,
    "regression": lambda logits, names: number_row(logits),
}
_TASKS = {
    "classification": (_texts, _classes_of_texts),
    "regression": (_texts, _classes_of_texts),
    "multilabel": (_texts, _classes_of_texts),
    "token_classification": (_words, _tags),
    "image_classification": (_pictures, _classes_of_pictures),
    "causal_lm": (_one_text, _written),
    "seq2seq": (_one_text, _written),
}


def _completed(run: FinishedRun, arguments: PredictArguments) -> list[dict[str, Any]]:
    """Predict entries of a matrix, with the names of the run."""
    names = json.loads((run.folder / MATRIX_NAMES).read_text(encoding="utf-8"))
    own = {name: run.setting(name) for name in ("row_column", "column_column", "value_column")}
    files = {name: getattr(arguments, name) for name in ("encoding", "separator", "quoting", "column_names")}
    wanted = find_entries(names, CompleteArguments(predict=arguments.data, **own, **files))
    values = MatrixCompletion.load(run.folder / MODEL).predict(wanted.pairs)
    return wanted.table.assign(**{own["value_column"]: values}).to_dict("records")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as it is written: of a picture, its path."""
    return {name: value.get("path") if isinstance(value, dict) else value for name, value in row.items()}


def _tell_of_cuts(lost: list[int]) -> None:
    if any(lost):
        warnings.warn(
            f"{sum(map(bool, lost)):,} of {len(lost):,} texts are longer than --max_length, and were cut off for their "
            f"predictions, at most by {max(lost):,}",
            stacklevel=3,
        )


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as csv, with lists as JSON, or as JSON lines; the file is complete or not there."""
    with complete_file(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({
                name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
                for name, value in row.items()
            })  # fmt: skip
