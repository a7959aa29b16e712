"""What is in a folder: which of its files belong to which split, and which folders are classes."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from training.errors import UsageError

VALIDATION_NAMES = ("validation", "dev", "valid", "val", "eval", "evaluation")
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "testing")
_SPLIT_OF = (
    dict.fromkeys(TRAIN_NAMES, "train")
    | dict.fromkeys(TEST_NAMES, "test")
    | dict.fromkeys(VALIDATION_NAMES, "validation")
)
_HIDDEN = re.compile(r"\..*|__macosx", re.IGNORECASE)  # folders
_NOT_DATA = re.compile(r"\..*|~\$.*|(readme|licen[cs]e)(\.(md|txt|rst|html?))?|thumbs\.db|desktop\.ini", re.IGNORECASE)
_SHARD = re.compile(r"[0-9]+|of")
_NUMBERED = re.compile(f"^({'|'.join(_SPLIT_OF)})[0-9]+$")  # train2
Splits = dict[str, list[Path]]


def files_under(folder: Path) -> list[Path]:
    """Return all files that may be data, in order: not hidden ones, locks, README or LICENSE; links are followed."""
    found: list[Path] = []
    seen: dict[str, Path] = {}
    for root, inner, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            inner.clear()
            if seen[place] not in Path(root).parents:  # else a link to a folder around it
                warnings.warn(f"{root} is left out: it is the same folder as {seen[place]}", stacklevel=2)
            continue
        seen[place] = Path(root)
        inner[:] = sorted(name for name in inner if not _HIDDEN.fullmatch(name))
        found += [Path(root, name) for name in names if not _NOT_DATA.fullmatch(name)]
    return sorted(path for path in found if path.is_file())


def split_files(folder: Path, files: Iterable[Path]) -> Splits:
    """Sort files into splits, if the top level of the folder is split folders or split files, and nothing else.

    Otherwise all are training data. A split file is named like a split, apart from numbers and from words that all of
    them have: train.csv, test-00000-of-00002.parquet, or reviews_train.csv beside reviews_dev.csv.
    """
    tops: dict[str, list[Path]] = {}
    for path in files:
        tops.setdefault(path.relative_to(folder).parts[0], []).append(path)
    names = {top: _split_and_rest(top if (folder / top).is_dir() else top.split(".")[0]) for top in tops}
    splits, rests = {split for split, _ in names.values()}, {rest for _, rest in names.values()}
    if not names or None in splits or len(rests) > 1:
        held = [path for several in tops.values() for path in several]
        if not _tell_of_splits(folder, {top: split for top, (split, _) in names.items()}):
            _tell_of_mixed(folder, held)
        return {"train": held}
    found: Splits = {}
    for top, held in tops.items():
        found.setdefault(str(names[top][0]), []).extend(held)
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _tell_of_splits(folder: Path, said: dict[str, str | None]) -> bool:
    """Warn where some names are those of splits and are not taken for ones, because others are not."""
    named = sorted(top for top, split in said.items() if split)
    others = sorted(top for top, split in said.items() if not split)
    if named and others:
        warnings.warn(
            f"all of {folder} is training data: {named[0]} is named like a split, but {others[0]} is not; if it is "
            "one, name it with --dataset, --validation_data or --test_data",
            stacklevel=4,
        )
    return bool(named and others)


def _tell_of_mixed(folder: Path, paths: Iterable[Path]) -> None:
    """Warn of the first file that is trained on, although it, or a folder around it, is named like another split."""
    for path in paths:
        parts = path.relative_to(folder).parts
        if any(_split_and_rest(part.split(".")[0])[0] in ("test", "validation") for part in parts):
            warnings.warn(
                f"all of {folder} is training data, also {Path(*parts)}, which is named like another split; name "
                "splits alike except for train, validation and test at the top, or pass --validation_data or "
                "--test_data",
                stacklevel=4,
            )
            return


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that a name says, if it says one, and its other words.

    >>> _split_and_rest("reviews_train-00001-of-00002"), _split_and_rest("train_station_3"), _split_and_rest("2021")
    (('train', ('reviews',)), ('train', ('station',)), (None, ()))
    """
    words = [word for word in re.split(r"[-_. ]+", name.lower()) if word and not _SHARD.fullmatch(word)]
    words = [_NUMBERED.sub(r"\1", word) for word in words]
    said = [word for word in words if word in _SPLIT_OF]
    split = _SPLIT_OF[said[0]] if len(said) == 1 else None
    return split, tuple(word for word in words if word not in _SPLIT_OF)


def is_picture(path: Path) -> bool:
    """Tell whether the name is that of an image that can be read."""
    Image.init()
    return path.suffix.lower() in Image.EXTENSION and path.suffix.lower() not in (
        ".pdf",
        ".h5",
        ".hdf",
        ".mpg",
        ".mpeg",
    )


def is_metadata(path: Path) -> bool:
    """Tell whether a file says what the pictures of its folder show."""
    return path.name.lower() in ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def picture_roots(folder: Path) -> dict[str, Path]:
    """Return the folders of the splits: the folder itself, unless its top level is split folders and nothing else.

    A split folder is called like a split, or as all others but for the split, as training_set beside test_set is.

    What is neither a picture nor says what one shows is left out, and does not count.
    """
    files, others = partition(files_under(folder), lambda path: is_picture(path) or is_metadata(path))
    tops = sorted({path.relative_to(folder).parts[0] for path in files})
    said = {top: _SPLIT_OF.get(top.lower()) for top in tops if (folder / top).is_dir()}
    if None in said.values() and len(said) == len(tops):
        said = _split_folders(tops) or said
    if len(said) < len(tops) or None in said.values() or (len(said) < 2 and "train" not in said.values()):
        if len(tops) == 1 and said and not any(path.parent == folder / tops[0] or is_metadata(path) for path in files):
            inside = folder / tops[0]
            raise UsageError(
                f"all images of {folder} are in folders inside {tops[0]}; pass {inside} if they are classes"
            )
        _tell_of_splits(folder, dict.fromkeys(tops) | said)
        return {"train": folder}
    if len(set(said.values())) < len(said):
        raise UsageError(f"{folder} has two folders for one split ({', '.join(said)}); keep one of them")
    beside = [path for path in others if path.relative_to(folder).parts[0] not in said]
    left_out(folder, beside, "files", "they are not images that can be read")
    return {str(split): folder / top for top, split in said.items()}


def _split_folders(names: Iterable[str]) -> dict[str, str | None]:
    """Return the splits of folders that are called alike but for several splits: training_set, test_set."""
    told = {name: _split_and_rest(name) for name in names}
    alike = len({rest for _, rest in told.values()}) == 1 < len({split for split, _ in told.values()})
    return {name: split for name, (split, _) in told.items()} if alike else {}


def pictures_by_class(root: Path) -> list[tuple[Path, str]]:
    """Return the pictures in a folder of class folders, each with its class: the first folder below the root.

    Raises:
        UsageError: there are no pictures, no folders around them, or folders of splits inside those of classes.
    """
    pictures = [path for path in files_under(root) if is_picture(path)]
    loose = [path for path in pictures if path.parent == root]
    if len(loose) == len(pictures):
        raise UsageError(
            f"{root} holds {len(pictures)} pictures, none of them in a class folder; make a folder for each "
            "class, or a metadata.csv with the columns file_name and label"
        )
    left_out(root, loose, "pictures", "they are in no class folder")
    held = [(path, path.relative_to(root).parts) for path in pictures if path.parent != root]
    inside = {parts[1] if len(parts) > 2 else "" for _, parts in held}
    if len(inside) > 1 and all(name.lower() in _SPLIT_OF for name in inside):
        raise UsageError(
            f"the folders of classes in {root} hold folders of splits ({', '.join(sorted(inside))}); splits come "
            f"first: {Path(held[0][1][1], held[0][1][0])} for {Path(*held[0][1][:2])}"
        )
    _tell_of_repeated(root, [parts for _, parts in held])
    return [(path, unicodedata.normalize("NFC", parts[0])) for path, parts in held]


def _tell_of_repeated(root: Path, held: Iterable[tuple[str, ...]]) -> None:
    """Warn if the folders of all classes hold the same folders, as parts of a data set hold those of its classes."""
    inner: dict[str, set[str]] = {}
    for parts in held:
        inner.setdefault(parts[0], set()).update(parts[1:-1][:1])
    shared = sorted(set.intersection(*inner.values()))
    if len(inner) > 1 and len(shared) > 1:
        warnings.warn(
            f"the folders in {root} ({', '.join(sorted(inner)[:3])}, ...) are the classes, and all of them hold the "
            f"folders {', '.join(shared[:3])}; if those are the classes, put their pictures together",
            stacklevel=3,
        )


def left_out(folder: Path, paths: Iterable[Path], what: str, why: str) -> None:
    """Warn of files that are not read, with their number."""
    if held := list(paths):
        warnings.warn(f"{len(held)} {what} in {folder} are left out, the first is {held[0].name}: {why}", stacklevel=3)


def partition(paths: Iterable[Path], test: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """Return the paths that pass a test, and the others."""
    held = [(test(path), path) for path in paths]
    return [path for passes, path in held if passes], [path for passes, path in held if not passes]
