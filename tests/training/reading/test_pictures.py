"""One decoder for all commands: whole ranges of numbers, white behind what is transparent, damaged pictures named."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as Stored
from PIL import Image

from training.errors import RunError, UsageError
from training.reading.pictures import decode, readable

GRAY = np.linspace(0, 1, 12).reshape(3, 4)


def decoded(image: Image.Image, path, **options) -> np.ndarray:
    image.save(path, **options)
    return np.asarray(decode({"path": str(path)}))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_numbers_of_16_bits_become_those_of_8(suffix, tmp_path) -> None:
    image = Image.fromarray((GRAY * 65535).round().astype(np.uint16))
    found = decoded(image, tmp_path / f"image{suffix}")
    assert found.shape == (3, 4, 3) and np.abs(found[..., 0] - GRAY * 255).max() <= 1
    dark = Image.fromarray((GRAY * 255).round().astype(np.uint16))
    assert decoded(dark, tmp_path / f"dark{suffix}").max() <= 1, "dark pictures stay dark"


def tiff_of_12_bits(values: list[int]) -> bytes:
    """A gray line; two numbers are packed in three bytes, the highest bits first."""
    pairs = zip(values[::2], values[1::2], strict=True)
    pixels = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    place = 8 + 2 + 9 * 12 + 4
    tags = (
        (256, len(values)),
        (257, 1),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, place),
        (277, 1),
        (278, 1),
        (279, len(pixels)),
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def test_numbers_of_12_bits_become_those_of_8_if_the_file_says_so(tmp_path) -> None:
    (tmp_path / "image.tif").write_bytes(tiff_of_12_bits([0, 4095, 2048, 16]))
    assert np.asarray(decode({"path": str(tmp_path / "image.tif")}))[0, :, 0].tolist() == [0, 255, 128, 1]


def png_of_16_bits(color: list[int]) -> bytes:
    """One point of red, green and blue."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"\0" + struct.pack(">HHH", *color)),
        b"IEND": b"",
    }
    blocks = [struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))
              for name, held in parts.items()]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(blocks)


def test_dark_pictures_of_16_bits_are_told(tmp_path) -> None:
    """As cameras save 12 bits; a black picture, and a dark one of 8 bits, are as they are."""
    tops = {"wide": (4095, np.uint16), "black": (0, np.uint16), "dark": (15, np.uint8), "bright": (65535, np.uint16)}
    for name, (top, kind) in tops.items():
        Image.fromarray((GRAY * top).astype(kind)).save(tmp_path / f"{name}.png")
    (tmp_path / "colors.png").write_bytes(png_of_16_bits([4095, 300, 0]))
    paths = [str(tmp_path / f"{name}.png") for name in ("bright", "black", "dark", "wide", "colors")]
    data = Dataset.from_dict({"image": paths}).cast_column("image", Stored(decode=False))
    with pytest.warns(UserWarning, match="2 of 5 pictures of the train data have 16 bits and are nearly black, .*wide"):
        assert readable(data, "image", "train", False) is data


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp", "mpo"])
def test_further_pictures_in_a_file_are_told(suffix, tmp_path, recwarn) -> None:
    """Except those of a phone's camera, which are smaller copies or other views of the same."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "1.png")
    frames[0].save(tmp_path / f"3.{suffix}", save_all=True, append_images=frames[1:])
    paths = [str(tmp_path / "1.png"), str(tmp_path / f"3.{suffix}")]
    data = Dataset.from_dict({"image": paths}).cast_column("image", Stored(decode=False))
    assert readable(data, "image", "train", False) is data
    assert [str(one.message) for one in recwarn] == [
        "1 of 2 pictures of the train data are followed by others in their file, which are not read, the first is "
        f"{paths[1]}; save those as files of their own, if they are meant"
    ] * (suffix != "mpo")
    whole = (tmp_path / f"3.{suffix}").read_bytes()
    for length in range(len(whole) // 3, len(whole), 5):
        (tmp_path / f"3.{suffix}").write_bytes(whole[:length])
        assert len(readable(data, "image", "train", True)) in (1, 2)
    (tmp_path / f"3.{suffix}").write_bytes(whole)
    red, green, blue = decode({"path": paths[1], "bytes": None}).getpixel((0, 0))
    assert red > 200 and green < 50 and blue < 50


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_real_numbers_are_scaled_by_their_range(top, tmp_path) -> None:
    found = decoded(Image.fromarray((GRAY * top).astype(np.float32)), tmp_path / "image.tif")
    assert np.abs(found[..., 0] - GRAY * 255).max() <= 1
    for wrong in (-GRAY, GRAY * 1e6):
        with pytest.raises(RunError, match="it holds numbers from .*; save it with 8 or 16 bits"):
            decoded(Image.fromarray(wrong.astype(np.float32)), tmp_path / "wrong.tif")


def test_what_is_transparent_becomes_white(tmp_path) -> None:
    drawings = {
        "RGBA": Image.new("RGBA", (2, 1), (0, 0, 0, 0)),
        "LA": Image.new("LA", (2, 1), (0, 0)),
        "P": Image.new("P", (2, 1), 0),
        "L": Image.new("L", (2, 1), 0),
        "RGB": Image.new("RGB", (2, 1), (0, 0, 0)),
        "I;16": Image.fromarray(np.array([[9, 0]], dtype=np.uint16)),
    }
    drawings["RGBA"].putpixel((1, 0), (0, 0, 0, 255))
    drawings["LA"].putpixel((1, 0), (0, 255))
    drawings["P"].putpalette([0, 0, 0, 9, 9, 9])
    drawings["P"].putpixel((1, 0), 1)
    drawings["L"].putpixel((1, 0), 1)
    drawings["RGB"].putpixel((1, 0), (1, 1, 1))
    said = {"P": 0, "L": 0, "RGB": (0, 0, 0), "I;16": 9}
    for mode, image in drawings.items():
        options = {"transparency": said[mode]} if mode in said else {}
        found = decoded(image, tmp_path / f"{mode[:3]}.png", **options)
        assert found[0, 0].tolist() == [255, 255, 255] and found[0, 1].max() < 10, mode
    half = decoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), tmp_path / "half.png")
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def stored(tmp_path, count: int, bad: tuple[int, ...]) -> Dataset:
    paths = []
    for number in range(count):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (4, 4), "red").save(path)
        if number in bad:
            path.write_bytes(path.read_bytes()[:40])
        paths.append(str(path))
    return Dataset.from_dict({"image": paths}).cast_column("image", Stored(decode=False))


def test_damaged_pictures_are_listed_before_training_or_left_out(tmp_path) -> None:
    data = stored(tmp_path, 12, (3, 7))
    with pytest.raises(
        UsageError, match="2 of 12 pictures of the train data cannot be read .*3.png, .*7.png; the image"
    ):
        readable(data, "image", "train", False)
    with pytest.warns(UserWarning, match="2 of 12 pictures of the train data are left out: .*3.png, .*7.png"):
        kept = readable(data, "image", "train", True)
    assert len(kept) == 10
    assert readable(kept, "image", "train", False) is kept
    with pytest.raises(UsageError, match="2 of 2 pictures .* repair or remove them, or pass --skip_unreadable"):
        readable(data.select([3, 7]), "image", "train", True)
