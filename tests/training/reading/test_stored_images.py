"""Stored images as `contrastive` reads them: as `datasets` and transformers do, upright and in colors."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from transformers.image_utils import load_image

from training.errors import RunError
from training.reading.pictures import decode

ORIENTATION = 0x0112


def picture(path, mode: str, orientation: int | None):
    """A picture without any symmetry."""
    image = Image.new("RGB", (48, 24), "red")
    ImageDraw.Draw(image).rectangle((0, 0, 15, 7), fill="blue")
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    image.convert(mode).save(path, exif=exif)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("orientation", [None, 0, *range(1, 9), 99])
def test_pictures_are_turned_as_by_the_libraries(orientation, mode, tmp_path) -> None:
    path = picture(tmp_path / "picture.png", mode, orientation)
    data = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    found = np.asarray(decode({"path": str(path), "bytes": None}))
    assert found.shape == (48, 24, 3) if orientation in (5, 6, 7, 8) else found.shape == (24, 48, 3)
    assert np.array_equal(found, np.asarray(data[0]["image"].convert("RGB")))
    assert np.array_equal(found, np.asarray(load_image(str(path))))
    assert np.array_equal(found, np.asarray(decode({"path": None, "bytes": path.read_bytes()})))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_scans_in_tiff_files_that_are_not_compressed_are_turned(orientation, kind, tmp_path) -> None:
    """Pillow maps such files into memory with the sides of the turned picture."""
    values, exif = np.arange(1, 7).reshape(2, 3), Image.Exif()
    exif[ORIENTATION] = orientation
    full = 257 if kind is np.uint16 else 1
    Image.fromarray((values * full).astype(kind)).save(tmp_path / "scan.tif", exif=exif)
    turned = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.T,
        6: values[::-1].T, 7: values[::-1, ::-1].T, 8: values[:, ::-1].T,
    }  # fmt: skip
    found = np.asarray(decode({"path": str(tmp_path / "scan.tif")}))[..., 0]
    assert found.tolist() == turned[orientation].tolist()


def test_what_is_no_image_is_told_by_its_name_alone(tmp_path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    for image in ({"path": str(tmp_path / "page.png")}, {"path": "page.png", "bytes": b"<html>"}):
        with pytest.raises(RunError, match=r"page.png cannot be read: it is not an image of a known kind$"):
            decode(image)


def test_pictures_of_a_phone_are_turned(tmp_path) -> None:
    path = picture(tmp_path / "phone.jpg", "RGB", 6)
    upright = decode({"path": str(path)})
    assert upright.size == (24, 48) and upright.getpixel((23, 0))[2] > 200 > 50 > upright.getpixel((0, 47))[2]


def test_transparent_places_become_white_in_pictures_that_are_turned(tmp_path) -> None:
    for mode, hidden in (("RGBA", (0, 0, 255, 0)), ("LA", (0, 0))):
        image, exif = Image.new(mode, (4, 2), hidden), Image.Exif()
        exif[ORIENTATION] = 6
        image.putpixel((0, 0), (*hidden[:-1], 255))
        image.save(tmp_path / "picture.png", exif=exif)
        found = decode({"path": str(tmp_path / "picture.png")})
        assert found.size == (2, 4) and found.getpixel((0, 0)) == (255, 255, 255)
        assert found.getpixel((1, 0)) == ((0, 0, 255) if mode == "RGBA" else (0, 0, 0))


def test_pictures_that_claim_too_many_points_or_cannot_be_turned_are_named(tmp_path, monkeypatch) -> None:
    path = picture(tmp_path / "picture.png", "RGB", 6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(RunError, match=r"the image .*picture.png cannot be read: Image size \(1152 pixels\) exceeds"):
        decode({"path": str(path)})
    monkeypatch.undo()

    def fail(image):
        import struct

        struct.pack("H", "damaged")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(RunError, match=r"the image .*picture.png cannot be read: required argument is not an integer"):
        decode({"path": str(path)})
