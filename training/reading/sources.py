"""What `--dataset` and the like name: a file, a folder, a saved data set or one on the Hub, by its splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.csv.csv import CsvConfig

from training.errors import UsageError, loading_error, redacted
from training.reading import folders
from training.reading.formats import FORMATS, read_table, refuse_archive, suffix_of
from training.reading.kinds import picture
from training.reading.tables import Table, Wanted, of_data_set, replace_column, typed
from training.settings.data import FileArguments

_TYPED_BY = ("features", "converters", "thousands", "true_values", "false_values", "index_col")  # of cards
Reader = Callable[[Sequence[Wanted]], Dataset]


def read_source(
    source: str, options: FileArguments, *, config: str | None = None, images: bool = False
) -> dict[str, Reader]:
    """Return a reader for each split; it reads the wanted columns, each as its kind.

    Args:
        source: a file, a folder, or the name of a data set on the Hub.
        options: how text files are read.
        config: configuration of a data set on the Hub.
        images: a folder may hold images in a folder for each class.

    Raises:
        UsageError: there is no such file, folder or data set, or it cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return {"train": partial(_read_files, [path], options)}
    if not source.strip():
        raise UsageError("the name of the data is empty; pass a file, a folder, or the name of a data set")
    if path.is_dir():
        return _read_folder(path, options, config, images)
    if path.exists():
        raise UsageError(
            f"{source} is not a regular file, and the data are read more than once; save them to a file first"
        )
    if "://" in source:
        raise UsageError(f"{source} is a URL; download the file, and pass its path")
    if suffix_of(path) in FORMATS or source.count("/") > 1 or source[:1] in (".", "/", "~") or source != source.strip():
        raise UsageError(f"file not found: {source}; pass the path of a file or a folder, or the name of a data set")
    return _of_library(source, partial(load_dataset, source, config))


# The files of which an option says how they are read; no other is read by it.
_READ_BY = {
    "separator": (".csv", ".tsv"),
    "quoting": (".csv", ".tsv"),
    "column_names": (".csv", ".tsv", ".xlsx"),
    "encoding": tuple(suffix for suffix in FORMATS if suffix not in (".xlsx", ".parquet")),
}


def refuse_unused(options: FileArguments, sources: Sequence[str | None]) -> None:
    """Raise if an option says how files of a kind are read, and there are none of this kind.

    Raises:
        UsageError: the text names the option and its files.
    """
    named = [source for source in sources if source]
    suffixes = {suffix_of(path) for source in named for path in _own_files(Path(source).expanduser())}
    usual = FileArguments()
    for name, fitting in _READ_BY.items():
        value = getattr(options, name)
        if value != getattr(usual, name) and not suffixes & set(fitting):
            raise UsageError(
                f"--{name} got {value!r}, but is only for {', '.join(fitting)} files, and there are none in "
                f"{', '.join(named)}; leave it out"
            )


def _own_files(path: Path) -> list[Path]:
    """Return the files of a source that are read here, and not by the library."""
    if path.is_dir():
        return [] if _is_saved(path) or _has_configs(path / "README.md") else folders.files_under(path)
    return [path] if path.is_file() else []


def _is_saved(folder: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("dataset_info.json", "state.json")
    )


def column_names(reader: Any) -> list[str]:
    """Return the names of the columns that a reader could read.

    Raises:
        UsageError: the data cannot be read.
    """
    if reader.func is _read_files:
        paths, options = reader.args
        return list(read_table(paths[0], [], options).names)
    return list(reader.args[-1].column_names) if reader.func is _typed_split else ["image", "label"]


def _read_folder(folder: Path, options: FileArguments, config: str | None, images: bool) -> dict[str, Reader]:
    files = folders.files_under(folder)
    if _is_saved(folder):
        return _of_library(str(folder), partial(load_from_disk, str(folder)))
    if _has_configs(folder / "README.md"):
        return _of_library(str(folder), partial(_load_configured, str(folder), config))
    if images and any(folders.is_picture(path) for path in files):
        roots = folders.picture_roots(folder)
        return {split: partial(_read_pictures, root, options) for split, root in roots.items()}
    data, others = folders.partition(files, lambda path: suffix_of(path) in FORMATS)
    if not data:
        for path in others:
            refuse_archive(path)
        if not any(suffix_of(path) == ".arrow" for path in others):  # the library would read others by its own rules
            seen = f" ({len(others)} files, such as {others[0].name})" if others else ""
            raise UsageError(
                f"no file in {folder} can be read{seen}; pass a folder with {', '.join(FORMATS)} files, or with images "
                "for a task with images"
            )
        return _of_library(str(folder), partial(load_dataset, str(folder), config))
    folders.left_out(folder, others, "files", f"readable are {', '.join(FORMATS)}")
    splits = folders.split_files(folder, data)
    return {split: partial(_read_files, held, options) for split, held in splits.items()}


def _read_files(paths: Sequence[Path], options: FileArguments, wanted: Sequence[Wanted]) -> Dataset:
    """Read files, one below the other."""
    return _joined([typed(read_table(path, wanted, options), wanted) for path in paths])


def _joined(parts: list[Dataset]) -> Dataset:
    """Put data sets below each other; classes that they number differently become names."""
    if len(parts) == 1:
        return parts[0]
    for name in parts[0].column_names:
        if any(part.features[name] != parts[0].features[name] for part in parts):
            parts = [_by_name(part, name) for part in parts]
    return concatenate_datasets(parts)


def _by_name(part: Dataset, name: str) -> Dataset:
    feature = part.features[name]
    if not isinstance(feature, ClassLabel):
        return part
    named = [feature.names[number] if number >= 0 else str(number) for number in part[name]]
    return replace_column(part, name, named, Value("string"))


def _read_pictures(root: Path, options: FileArguments, wanted: Sequence[Wanted]) -> Dataset:
    """Read a folder with a folder for each class, or with files that say what its pictures show; if asked for it."""
    tables, others = folders.partition(folders.files_under(root), folders.is_metadata)
    pictures, rest = folders.partition(others, folders.is_picture)
    folders.left_out(root, rest, "files", "they are not images that can be read")
    if tables:
        data = _joined([_with_files(path, options, wanted) for path in tables])
        shown = {row["path"] for one in wanted if one.kind is picture for row in data[one.name]}
        unnamed = [path for path in pictures if str(path.resolve()) not in shown]
        folders.left_out(root, unnamed if shown else [], "pictures", f"{tables[0].name} does not name them")
        return data
    unlabeled = all(one.kind is picture for one in wanted)
    held = [(path, "") for path in pictures] if unlabeled else folders.pictures_by_class(root)
    names = sorted({name for _, name in held})
    columns = {"image": [str(path) for path, _ in held], "label": [names.index(name) for _, name in held]}
    table = Table(
        list(columns), columns, str(root), lambda row: str(held[row][0]), str(root.resolve()),
        {"label": ClassLabel(names=names)}, len(held),
    )  # fmt: skip
    return typed(table, wanted)


def _with_files(path: Path, options: FileArguments, wanted: Sequence[Wanted]) -> Dataset:
    """Read a metadata file, in which file_name is the path of a picture."""
    own = [one._replace(name="file_name") if one.kind is picture else one for one in wanted]
    data = typed(read_table(path, own, options), own)
    return data.rename_columns({new.name: old.name for old, new in zip(wanted, own, strict=True)})


def _has_configs(readme: Path) -> bool:
    """Tell whether the card of a data set says which files belong to which split, and how they are read."""
    if not readme.is_file():
        return False
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        head = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        return False
    return isinstance(head, dict) and "configs" in head


def _load_configured(source: str, config: str | None) -> Any:
    """Load a folder as its card says. What is in csv files are texts, such as NA and 007, unless it says otherwise."""
    found = load_dataset_builder(source, config)
    options: dict[str, Any] = {}
    if isinstance(found.config, CsvConfig):
        if found.config.keep_default_na and found.config.na_values is None:
            options = {"keep_default_na": False, "na_values": [""]}
        said = (
            found.info.features or found.config.decimal != "." or any(getattr(found.config, one) for one in _TYPED_BY)
        )
        if not said:
            options["features"] = _all_texts(found.config)
    return load_dataset(source, config, **options)


def _all_texts(config: CsvConfig) -> Features:
    """Return that all columns are texts, by the header of the first file."""
    first = next(path for paths in dict(config.data_files or {}).values() for path in paths)
    header = pd.read_csv(first, **(config.pd_read_csv_kwargs | {"nrows": 0, "chunksize": None}))
    return Features({str(name): Value("string") for name in header.columns})


def _of_library(source: str, load: Callable[[], Any]) -> dict[str, Reader]:
    with _loading(source):
        found = load()
    splits = found if isinstance(found, DatasetDict) else {"train": found}
    return {name: partial(_typed_split, source, name, split) for name, split in splits.items()}


def _typed_split(source: str, name: str, split: Dataset, wanted: Sequence[Wanted]) -> Dataset:
    if not len(split):
        raise UsageError(f"the {name} data have no rows; at least one is needed")
    return typed(of_data_set(split, f"the {name} data"), wanted)


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Turn whatever the libraries raise into a sentence."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # the libraries raise many kinds; all mean that the source cannot be read
        if "corresponds to no data" in str(error):
            raise UsageError(f"the data set {source} has no rows; at least one is needed") from error
        if isinstance(error, DatasetGenerationError) and error.__cause__:  # which says no more than that there was one
            reason = redacted(f"{error}: {error.__cause__}")
            raise UsageError(f"the data set {source} cannot be loaded: {reason}") from error
        if "doesn't exist on the Hub" in str(error):
            raise UsageError(
                f"the data set {source} cannot be loaded: it is neither a file or folder nor the name of a data "
                f"set on the Hub ({redacted(str(error))})"
            ) from error
        raise loading_error(f"the data set {source}", error) from error
