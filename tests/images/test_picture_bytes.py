"""Pictures that are no files of a data set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmpoison.images import BrokenImage, read_image, read_image_bytes


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
