"""`deep-lora complete`: completes a matrix, such as ratings, from a file of (row, column, value)."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dmf import MatrixCompletion
from dmf.files import complete_file
from training.errors import RunError, UsageError, public_settings
from training.names import FIGURE, FIT, MATRIX_NAMES, MODEL, PREDICTIONS, RESULTS
from training.reading.kinds import Kind, Placed, number, written
from training.reading.names import find_names, number_names
from training.reading.sources import read_source, refuse_unused
from training.reading.tables import Wanted
from training.results.figures import curve, figure
from training.results.folders import IDENTITY, identity_of, refuse_other_run, require_writable, saving
from training.results.report import installed_version, write_json
from training.settings.data import FileArguments
from training.settings.parsing import option, parse
from training.settings.ranges import refuse_out_of_range
from training.tasks.labels import tell_of_alike

DESCRIPTION = """Complete a matrix from some of its entries with a compressed deep factorization.

  deep-lora complete --data ratings.csv --row_column user --column_column film --value_column stars
  deep-lora complete --data ratings.csv --predict wanted.csv --output_dir runs/ratings

Rows and columns may have any names, compared as they are written: 001 is not 1, but 1.0 is 1 if all are numbers.
Written to --output_dir: model.safetensors (dmf.MatrixCompletion.load), names.json, results.json with the error on
held-out entries, training.png and, with --predict, predictions.csv. A name in --predict that is not in the data is
reported, and predicted from the mean and the bias of the other side."""
PAIRS = ("row_column", "column_column")


@dataclass
class CompleteArguments(FileArguments):
    """The entries, and how they are factorized."""

    data: str | None = option(None, "A .csv, .tsv, .xlsx, .json, .jsonl or .parquet file, one known entry in a row.")
    row_column: str = option("row", "Column that names the row of the matrix.")
    column_column: str = option("column", "Column that names the column of the matrix.")
    value_column: str = option("value", "Column with the value.")
    predict: str | None = option(None, "A file with the rows and columns of entries to predict.")
    test_fraction: float = option(0.1, "Fraction of the entries held out to measure the error; 0 holds out none.")
    rank: int = option(20, "Rank of the factorization, even; reduced if the matrix is too small for it.")
    depth: int = option(3, "Number of factors between the outer ones.")
    learning_rate: float = option(1e-2, "Learning rate of Adam.")
    weight_decay: float = option(1.0, "Penalty relative to the noise level: about 1 for noisy data, 0 for exact data.")
    max_epochs: int = option(100, "Passes over the entries.")
    validation_fraction: float = option(0.1, "Part of the training entries that decides when to stop; 0 is none.")
    patience: int = option(20, "Epochs without improvement before stopping.")
    implicit_feedback: bool = option(False, "Also learn from which entries are known, as with ratings.")
    seed: int = option(0, "Seed of the held-out entries, the initial values and the order.")
    output_dir: str = option("runs/complete", "Folder for everything that is written.")
    dry_run: bool = option(False, "Show what would be completed, and stop.")
    overwrite: bool = option(False, "Replace the results of another run in --output_dir.")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_out_of_range(self)
        if not 0 <= self.test_fraction < 1:
            raise UsageError(f"--test_fraction got {self.test_fraction}; it must be at least 0 and below 1")
        columns = [self.row_column, self.column_column, self.value_column]
        if len(set(columns)) < 3:
            raise UsageError(f"--row_column, --column_column and --value_column got {columns}; they must differ")


TYPES = (CompleteArguments,)


def main(words: Sequence[str]) -> int:
    """Run the command and return its exit status. Of several processes the first one works."""
    (arguments,) = parse(TYPES, words, command="complete", description=DESCRIPTION)
    if int(os.environ.get("RANK", "0")) > 0:
        return 0
    folder = Path(arguments.output_dir)
    require_writable(folder)
    entries = read_entries(arguments)
    count, shape = len(entries.values), (len(entries.names["rows"]), len(entries.names["columns"]))
    low, high = entries.values.min(), entries.values.max()
    print(f"{count:,} of {shape[0]:,} x {shape[1]:,} entries ({count / shape[0] / shape[1]:.2%}), "
          f"values from {low:.10g} to {high:.10g}, rank up to {arguments.rank}")  # fmt: skip
    wanted = find_entries(entries.names, arguments) if arguments.predict else None
    identity = identity_of(decisive(arguments, entries))
    if not arguments.overwrite:
        refuse_other_run(folder, "complete", identity)
    if arguments.dry_run:
        return 0
    with saving(str(folder), "nothing is kept"):
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.overwrite:
            (folder / FIT).unlink(missing_ok=True)
    test = hold_out(count, arguments)
    model = fit(entries, ~test, shape, arguments)
    metrics = errors(model, entries, test) if test.any() else {}
    facts = {IDENTITY: identity, "entries": count, "held_out": int(test.sum()), "shape": shape}
    write(folder, arguments, model, entries.names, wanted, metrics, facts)
    print("\n".join(f"{name:>14}  {value:.4g}" for name, value in metrics.items()) + f"\n{'written to':>14}  {folder}")
    return 0


class Entries(NamedTuple):
    """The known entries: numbers of rows and columns, values, and the names that belong to the numbers."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    names: dict[str, list[str]]


def read_entries(arguments: CompleteArguments) -> Entries:
    """Read the known entries.

    Raises:
        UsageError: no file was passed, an entry comes twice, or as `read_columns`.
    """
    if arguments.data is None:
        raise UsageError("no data to complete were given; pass --data with a file of rows, columns and values")
    refuse_unused(arguments, [arguments.data, arguments.predict])
    table, place = read_columns(arguments.data, arguments, with_values=True)
    values = table[arguments.value_column].to_numpy(dtype=float)
    (rows, row_names), (columns, column_names) = (number_names(table[getattr(arguments, name)]) for name in PAIRS)
    tell_of_alike(row_names, arguments.row_column, "row")
    tell_of_alike(column_names, arguments.column_column, "column")
    twice = np.flatnonzero(pd.DataFrame({"row": rows, "column": columns}).duplicated())
    if len(twice):
        second = twice[0]
        first = np.flatnonzero((rows == rows[second]) & (columns == columns[second]))[0]
        raise UsageError(
            f"{len(twice)} entries of {arguments.data} are duplicates, the first is {place(second)} (and "
            f"{place(first)}); each pair of row and column may have one value"
        )
    return Entries(rows, columns, values, {"rows": row_names, "columns": column_names})


def decisive(arguments: CompleteArguments, entries: Entries) -> dict[str, Any]:
    """Return the settings and a digest of the entries: what the model depends on."""
    free = ("data", "predict", "output_dir", "dry_run", "overwrite", "encoding", "separator", "quoting", "column_names")
    digest = hashlib.sha256(repr(entries.names).encode())
    for held in (entries.rows, entries.columns, entries.values):
        digest.update(np.ascontiguousarray(held).tobytes())
    settings = {name: value for name, value in asdict(arguments).items() if name not in free}
    return settings | {"entries": digest.hexdigest()}


def read_columns(
    path: str, arguments: CompleteArguments, *, with_values: bool
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """Read the columns of a file that name entries, and their values if asked for; and where a row stands.

    Raises:
        UsageError: it cannot be read, a column is missing or has empty entries, or a value is not a finite number.
    """
    placed = Placed(written)
    kinds: tuple[Kind, Kind] = (placed, written)
    wanted = [Wanted(getattr(arguments, name), kind, f"--{name}") for name, kind in zip(PAIRS, kinds, strict=True)]
    wanted += [Wanted(arguments.value_column, number, "--value_column")] if with_values else []
    splits = read_source(path, arguments)
    if len(splits) > 1:
        raise UsageError(f"{path} has the splits {list(splits)}; pass the file of one of them")
    return next(iter(splits.values()))(wanted).to_pandas(), placed.place


def hold_out(count: int, arguments: CompleteArguments) -> np.ndarray:
    """Choose the entries that are left out of the fit."""
    test = np.zeros(count, dtype=bool)
    chosen = np.random.default_rng(arguments.seed).permutation(count)[: int(arguments.test_fraction * count)]
    test[chosen] = True
    return test


def fit(entries: Entries, chosen: np.ndarray, shape: tuple[int, int], arguments: CompleteArguments) -> MatrixCompletion:
    """Fit the estimator to the chosen entries; a killed fit resumes from its checkpoint.

    Raises:
        UsageError: a setting is out of range for these data.
        RunError: the fit diverged, or its checkpoint cannot be written.
    """
    names = ("rank", "depth", "learning_rate", "weight_decay", "max_epochs", "validation_fraction", "patience",
             "implicit_feedback")  # fmt: skip
    settings = {name: getattr(arguments, name) for name in names}
    checkpoint = Path(arguments.output_dir) / FIT
    model = MatrixCompletion(**settings, random_state=arguments.seed, checkpoint=str(checkpoint), verbose=1)
    kept = f"{checkpoint} is kept; rerun the command to resume from it, or delete it to start over"
    try:
        with saving(str(checkpoint), kept if checkpoint.exists() else "free some space and rerun the command"):
            return model.fit(entries.rows[chosen], entries.columns[chosen], entries.values[chosen], shape=shape)
    except ValueError as error:
        raise UsageError(f"the matrix cannot be completed: {error}") from error
    except FloatingPointError as error:
        left = f"{checkpoint} is kept; delete it to start over" if checkpoint.exists() else "nothing is kept"
        raise RunError(f"{error}. Of this fit {left}") from error


def errors(model: MatrixCompletion, entries: Entries, test: np.ndarray) -> dict[str, float]:
    """Return the errors on held-out entries, and those of the mean of the known ones for comparison."""
    values = entries.values[test]
    difference = model.predict(entries.rows[test], entries.columns[test]) - values
    return {
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "mae": float(np.mean(np.abs(difference))),
        "rmse_of_mean": float(np.sqrt(np.mean((values - entries.values[~test].mean()) ** 2))),
    }


class Questions(NamedTuple):
    """The rows of `--predict`, the numbers of the rows and columns that they name, and the names that are unknown."""

    table: pd.DataFrame
    pairs: np.ndarray
    unknown: dict[str, list[str]]


def find_entries(names: dict[str, list[str]], arguments: CompleteArguments) -> Questions:
    """Read the entries of `--predict`; unknown names get the number after the last one, with a warning.

    Raises:
        UsageError: as `read_columns`.
    """
    table, _ = read_columns(str(arguments.predict), arguments, with_values=False)
    numbers, unknown = [], {}
    for (side, known), option_name in zip(names.items(), PAIRS, strict=True):
        column = getattr(arguments, option_name)
        found = find_names(known, table[column])
        unknown[side] = sorted(set(table[column][found < 0].astype(str)))
        if unknown[side]:
            print(
                f"{arguments.predict} names {unknown[side][:5]} in {column!r}, which the data do not have, in "
                f"{(found < 0).sum()} of {len(table)} entries: they are predicted only from the other side; if this "
                "is not meant, write names as in the data (7 is not 007; 1.0 is 1 if all are numbers)",
                file=sys.stderr,
            )
        numbers.append(np.where(found < 0, len(known), found))
    return Questions(table, np.stack(numbers, axis=1), unknown)


def write(
    folder: Path,
    arguments: CompleteArguments,
    model: MatrixCompletion,
    names: dict[str, list[str]],
    wanted: Questions | None,
    metrics: dict[str, float],
    facts: dict[str, Any],
) -> None:
    """Write everything.

    Raises:
        RunError: it cannot be written.
    """
    with saving(f"the results in {folder}", "free some space and rerun the command"):
        model.save(folder / MODEL)
        write_json(folder / MATRIX_NAMES, names)
        if wanted is not None:
            write_predictions(folder / PREDICTIONS, model, wanted, arguments.value_column)
            facts = facts | {"predicted": len(wanted.table), "unknown_names": wanted.unknown}
        write_results(folder, arguments, model, metrics, **facts)


def write_predictions(path: Path, model: MatrixCompletion, wanted: Questions, value_column: str) -> None:
    """Write the wanted entries with a column for their values."""
    with complete_file(path) as partial:
        wanted.table.assign(**{value_column: model.predict(wanted.pairs)}).to_csv(partial, index=False)


def write_results(
    folder: Path, arguments: CompleteArguments, model: MatrixCompletion, metrics: dict[str, float], **facts: Any
) -> None:
    """Write `results.json` and the figure."""
    results = {
        "command": "complete",
        "status": "complete",
        "metrics": {"test": metrics},
        **facts,
        "epochs": model.n_iter_,
        "log": model.history_,
        "settings": public_settings(asdict(arguments)),
        "versions": {name: installed_version(name) for name in ("deep-lora", "torch", "scikit-learn", "numpy")},
    }
    write_json(folder / RESULTS, results)
    draw(folder / FIGURE, model.history_)


def draw(path: Path, history: list[dict[str, float]]) -> None:
    """Draw the errors over the epochs."""
    with figure(path, size=(6, 4)) as (axes,):
        for key, label in (("training_rmse", "training"), ("validation_rmse", "validation")):
            curve(axes, [(record["epoch"], record[key]) for record in history if key in record], label=label)
        axes.set(xlabel="epoch", ylabel="root mean squared error", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend()
