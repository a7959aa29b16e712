"""Stored pictures as red, green and blue, for all commands; and whether they can all be read."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from training.errors import RunError, UsageError

_LISTED = 10
_BITS_PER_SAMPLE = 258  # a tag of TIFF files
_DARK = 16  # of 255: what 12 bits reach in a file of 16
_PART = 256  # pictures whose bytes are in memory at a time
_RANGES = ((1.0, 255.0), (255.0, 1.0), (65535.0, 255.0 / 65535.0))  # of real numbers: up to this, times that
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip


def decode(image: dict[str, Any]) -> Image.Image:
    """Decode a stored image to red, green and blue, turned as its camera says; transparent places become white.

    Of 16-bit numbers the whole range becomes that of 8 bits, of 12-bit numbers theirs, if the file says so.

    Raises:
        RunError: it cannot be read as an image.
    """
    try:
        with _opened(image) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith(("I", "F")):
                return _of_eight_bits(upright, _bits_of(opened)).convert("RGB")
            if upright.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in upright.info:
                opaque = upright.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
            return upright.convert("RGB")
    except _DAMAGE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is not an image of a known kind" if unknown else error or type(error).__name__
        raise RunError(f"the image {image.get('path')} cannot be read: {reason}") from error


def _bits_of(image: Image.Image) -> int:
    """Return how many bits a number of the image has; 16, unless it is a TIFF file that says fewer."""
    said: tuple[int, ...] = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, ())
    return min((16, *said))


def _of_eight_bits(image: Image.Image, bits: int = 16) -> Image.Image:
    """Return an image of larger numbers as one of 8 bits."""
    values, most = np.asarray(image, dtype=np.float64), 2**bits - 1
    if image.mode.startswith("I"):
        factor = 255.0 / most if values.max(initial=0) <= most else None
    else:
        factor = next((factor for top, factor in _RANGES if values.max(initial=0) <= top), None)
    if factor is None or not values.min(initial=0) >= 0:
        raise ValueError(f"it holds numbers from {values.min():g} to {values.max():g}; save it with 8 or 16 bits")
    scaled = np.rint(values * factor).astype(np.uint8)
    scaled[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(scaled)


def readable(split: Dataset, column: str, name: str, skip: bool | None) -> Dataset:
    """Decode every picture once, so that a run does not end in the middle; the rows whose picture can be read.

    Args:
        split: its pictures are stored, not decoded.
        column: that holds them.
        name: of the split, for errors.
        skip: leave out what cannot be read, instead of raising; None if nothing can be left out.

    Raises:
        UsageError: pictures cannot be read and are not to be left out, or none can be read.
    """
    looks = list(_looks(split, column, name))
    bad = {row: look.complaint for row, look in enumerate(looks) if look.complaint}
    dark = [row for row, look in enumerate(looks) if look.dark]
    remedy = "if they hold numbers of fewer bits, such as 12, scale them to the whole range, or save them with 8 bits"
    _tell(split, column, name, dark, "have 16 bits and are nearly black", remedy)
    several = [row for row, look in enumerate(looks) if look.several]
    remedy = "save those as files of their own, if they are meant"
    _tell(split, column, name, several, "are followed by others in their file, which are not read", remedy)
    if not bad:
        return split
    names = [str(stored["path"]) for stored in split.select(list(bad)[:_LISTED])[column]]
    more = f", and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    listed = f"{', '.join(names)}{more}; {next(iter(bad.values()))}"
    if not skip or len(bad) == len(split):
        raise UsageError(
            f"{len(bad)} of {len(split)} pictures of the {name} data cannot be read ({listed}); repair or remove them"
            + ("" if skip is None else ", or pass --skip_unreadable to leave them out")
        )
    warnings.warn(f"{len(bad)} of {len(split)} pictures of the {name} data are left out: {listed}", stacklevel=2)
    return split.select([row for row in range(len(split)) if row not in bad])


def _tell(split: Dataset, column: str, name: str, rows: list[int], what: str, remedy: str) -> None:
    """Warn of pictures that can be read, but hardly as they were meant."""
    if rows:
        warnings.warn(
            f"{len(rows)} of {len(split)} pictures of the {name} data {what}, the first is "
            f"{split[rows[0]][column]['path']}; {remedy}",
            stacklevel=3,
        )


class _Look(NamedTuple):
    """Why a picture cannot be read, whether it has 16 bits and is nearly black, and whether others follow it."""

    complaint: str | None
    dark: bool = False
    several: bool = False


def _looks(split: Dataset, column: str, name: str) -> Iterator[_Look]:
    """Decode each picture."""
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(split), desc=f"checking pictures ({name})", disable=len(split) < 100) as bar,
    ):
        for part in split.select_columns([column]).iter(batch_size=_PART):
            for look in pool.map(_look_at, part[column]):
                bar.update()
                yield look


def _look_at(image: dict[str, Any]) -> _Look:
    try:
        decoded = decode(image)
    except RunError as error:
        return _Look(str(error))
    bands: Any = decoded.getextrema()  # of RGB: (lowest, highest) of each band
    dark = 0 < max(top for _, top in bands) <= _DARK
    with _opened(image) as opened:  # colors of 16 bits get a mode of 8
        wide = opened.mode.startswith("I") or any(";16" in str(tile.args) for tile in opened.tile)
        return _Look(None, dark and wide, _has_several(opened))


def _has_several(opened: Image.Image) -> bool:
    """Tell whether other pictures follow the first, apart from the previews that cameras add to theirs."""
    try:
        return opened.format != "MPO" and bool(getattr(opened, "is_animated", False))
    except _DAMAGE:  # of what follows, which is not read
        return False


def shared_pictures(train: Dataset, split: Dataset, column: str) -> int:
    """Count the pictures of a split that are in the training data too, byte for byte, under whatever name."""
    sizes = [[_size(image) for image in _stored(one, column)] for one in (train, split)]
    alike = set(sizes[0]) & set(sizes[1]) - {None}  # no others are read
    trained, found = (
        [_digest(image) if size in alike else None for image, size in zip(_stored(one, column), own, strict=True)]
        for one, own in zip((train, split), sizes, strict=True)
    )
    known = set(trained) - {None}
    return sum(digest in known for digest in found)


def _stored(split: Dataset, column: str) -> Iterator[dict[str, Any]]:
    for part in split.select_columns([column]).iter(batch_size=_PART):
        yield from part[column]


def _size(image: dict[str, Any]) -> int | None:
    held = image.get("bytes")
    if held is not None:
        return len(held)
    path = image.get("path") or ""
    return os.path.getsize(path) if os.path.isfile(path) else None


def _digest(image: dict[str, Any]) -> bytes:
    return hashlib.sha256(_content(image)).digest()


def _opened(image: dict[str, Any]) -> Image.Image:
    """Open an image, from memory: of files, Pillow maps those with turned sides in the wrong shape."""
    return Image.open(io.BytesIO(_content(image)))


def _content(image: dict[str, Any]) -> bytes:
    held: bytes | None = image.get("bytes")
    return Path(image["path"]).read_bytes() if held is None else held
