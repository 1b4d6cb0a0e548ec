"""What a model is shown of a picture: pixel for pixel what open_clip's own evaluation transform makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpoison.errors import InputError
from mmpoison.images import Preparation, preparation, read_image
from mmpoison.images.preparation import Interpolation, ResizeMode

Pixels = npt.NDArray[np.uint8]

MODES = get_args(ResizeMode)
FILTERS = get_args(Interpolation)
COLOURS = ("RGB", "L", "1", "P", "P+alpha", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F")


def open_clips(image: Image.Image, way: Preparation) -> Pixels:
    """open_clip's transform without its last two steps, which make floats of the pixels."""
    from open_clip.transform import image_transform

    steps: Any = image_transform(
        way.image_size,
        is_train=False,
        resize_mode=way.resize_mode,
        interpolation=way.interpolation,
        fill_color=way.fill_color,
    )
    for step in steps.transforms[:-2]:
        image = step(image)
    return np.asarray(image)


def noise(height: int, width: int, colours: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, height, width])
    if colours in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[colours]
        return Image.fromarray((rng.random((height, width)) * 300).astype(kind))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    if colours in ("RGBA", "LA"):
        return image.convert(colours)
    image = image.convert("RGB")
    if colours.startswith("P"):
        image = image.quantize(16)
        if colours == "P+alpha":
            image.info["transparency"] = bytes(range(0, 256, 16))
        return image
    return image.convert(colours)


@settings(max_examples=400)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    colours=st.sampled_from(COLOURS),
    size=st.integers(2, 48),
    mode=st.sampled_from(MODES),
    interpolation=st.sampled_from(FILTERS),
    fill=st.sampled_from([0, 0, 7]),
)
def test_any_picture_in_any_way(
    height: int,
    width: int,
    colours: str,
    size: int,
    mode: ResizeMode,
    interpolation: Interpolation,
    fill: int,
) -> None:
    way = Preparation(size, mode, interpolation, fill)
    image = noise(height, width, colours)
    if mode == "longest" and round(min(height, width) / (max(height, width) / size)) == 0:
        # open_clip stops at a strip that has less than half a row left
        assert way.apply(image).shape == (size, size, 3)
        return
    got = way.apply(image)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, open_clips(image, way))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", MODES)
def test_from_a_file(tmp_path: Path, kind: str, mode: ResizeMode) -> None:
    """Orientation in the EXIF data included: open_clip does not apply it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(50, 90).save(tmp_path / "x", kind, exif=exif)
    way = Preparation(32, mode, "bilinear")
    with Image.open(tmp_path / "x") as image:
        np.testing.assert_array_equal(read_image(tmp_path, "x", way), open_clips(image, way))


@pytest.mark.parametrize("colours", COLOURS)
def test_of_a_long_strip_only_the_middle_is_made(
    monkeypatch: pytest.MonkeyPatch, colours: str
) -> None:
    image = noise(3, 300, colours)
    way = Preparation(8)
    whole = way.apply(image).astype(int)
    monkeypatch.setattr(preparation, "LARGEST_RESIZED", 8 * 100)
    apart = np.abs(way.apply(image).astype(int) - whole)
    # the same but for rounding, which a palette's nearest entry and transparency make more of
    assert np.median(apart) == 0
    assert colours not in ("RGB", "L") or apart.max() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resize_mode": "stretch"}, "'stretch' must be one of shortest, longest, squash"),
        ({"image_size": 0}, "image_size 0 is not a whole number from 1"),
        ({"image_size": True}, "image_size True is not a whole number"),
        ({"fill_color": 256}, "fill_color 256 is not a whole number from 0 to 255"),
    ],
)
def test_what_there_is_not(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Preparation(**{"image_size": 32, **options})
