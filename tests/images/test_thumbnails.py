"""Small copies for people, and pictures that are no files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpoison.errors import InputError
from mmpoison.images import BrokenImage, read_image, read_image_bytes, thumbnail


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_thumbnail_is_the_whole_picture_and_small(tmp_path: Path, mode: str) -> None:
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new("RGB", (300, 100), (200, 30, 30)).convert(mode).save(tmp_path / name)
    with Image.open(io.BytesIO(thumbnail(tmp_path, name, 60))) as small:
        assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (60, 20))
        red, green, _ = np.asarray(small, dtype=int)[10, 30]
    assert red > green or mode == "L"


def test_it_is_never_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    with Image.open(io.BytesIO(thumbnail(tmp_path, "a.png", 60))) as small:
        assert small.size == (20, 10)


def test_a_strip_keeps_a_row(tmp_path: Path) -> None:
    Image.new("RGB", (5000, 2)).save(tmp_path / "a.png")
    with Image.open(io.BytesIO(thumbnail(tmp_path, "a.png", 50))) as small:
        assert small.size == (50, 1)


def test_what_is_refused(tmp_path: Path, cut_jpeg: bytes, huge_png: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "in" / "cut.jpg").write_bytes(cut_jpeg)
    (tmp_path / "in" / "huge.png").write_bytes(huge_png)
    (tmp_path / "in" / "text.png").write_text("<svg onload=alert(1)>")
    for name in ("cut.jpg", "huge.png", "text.png", "none.png", "../secret.png"):
        with pytest.raises(InputError, match=name):
            thumbnail(tmp_path / "in", name, 50)
    with pytest.raises(InputError, match="0 pixels"):
        thumbnail(tmp_path / "in", "cut.jpg", 0)


def test_bytes_are_read_as_a_file_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert (read_image_bytes(data, 32) == read_image(tmp_path, "a.png", 32)).all()


def test_bytes_that_are_refused(cut_jpeg: bytes, huge_png: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50)).save(buffer, "PNG")
    for data, fault in ((cut_jpeg, "truncated"), (huge_png, "too-large"), (b"GIF", "no-image")):
        with pytest.raises(BrokenImage, match="mine") as error:
            read_image_bytes(data, 32, name="mine")
        assert error.value.fault == fault
    with pytest.raises(BrokenImage, match="50 x 50 pixels is over the limit of 2,499"):
        read_image_bytes(buffer.getvalue(), 32, max_pixels=2499)
