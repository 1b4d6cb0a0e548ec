"""Preprocesses images for an encoder: open_clip's evaluation transform, pixel for pixel, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mmpoison.errors import InputError

Pixels = npt.NDArray[np.uint8]
ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]

LARGEST_RESIZED = 1 << 24
"""Maximum number of pixels after resizing and before cropping.

An image with more is a long strip; only its visible part is resized, because the whole might fill memory. Its pixels
equal open_clip's up to rounding.
"""

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclass(frozen=True)
class Preparation:
    """Image preprocessing settings, named as in open_clip's `preprocess_cfg`.

    Attributes:
        image_size: Side in pixels.
        resize_mode: `shortest` resizes the shorter side to `image_size` and crops the centre (CLIP's own), `longest`
            resizes the longer side and fills the rest with `fill_color`, `squash` ignores the aspect ratio.
        interpolation: Resizing filter.
        fill_color: Value of all channels around an image that was resized by its longer side.

    Raises:
        InputError: If open_clip does not support a value.

    >>> str(Preparation(224))
    '224 pixels, shortest, bicubic'
    """

    image_size: int
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    fill_color: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("resize_mode", get_args(ResizeMode)),
            ("interpolation", get_args(Interpolation)),
        ):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} {repr(value)[:40]} must be one of {', '.join(known)}")
        for name, least, most in (("image_size", 1, 1 << 14), ("fill_color", 0, 255)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise InputError(
                    f"{name} {repr(value)[:40]} is not a whole number from {least} to {most}"
                )

    @classmethod
    def of(cls, preparation: Preparation | int) -> Preparation:
        """Create a preparation; a number means CLIP's preprocessing with this size."""
        return preparation if isinstance(preparation, Preparation) else cls(preparation)

    def __str__(self) -> str:
        fill = f", filled with {self.fill_color}" if self.fill_color else ""
        return f"{self.image_size} pixels, {self.resize_mode}, {self.interpolation}{fill}"

    def apply(self, image: Image.Image) -> Pixels:
        """Resize, crop or fill, then convert to RGB, in open_clip's order.

        The order matters: palettes are resized with nearest neighbours, and transparent colours have less weight.

        Args:
            image: An image of any mode; for animations, the current frame.

        Returns:
            RGB, shape `(image_size, image_size, 3)`.

        Raises:
            ValueError: If the image has no pixels.
        """
        if not image.width or not image.height:
            raise ValueError("an empty image")
        square = {"shortest": self._shortest, "longest": self._longest, "squash": self._squash}
        # a copy, because Pillow's own array is read-only
        return np.array(square[self.resize_mode](image).convert("RGB"))

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _RESAMPLING[self.interpolation])

    def _squash(self, image: Image.Image) -> Image.Image:
        return self._resized(image, self.image_size, self.image_size)

    def _shortest(self, image: Image.Image) -> Image.Image:
        size, short = self.image_size, min(image.size)
        # truncate instead of rounding, like torchvision
        width, height = (int(size * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if width * height <= LARGEST_RESIZED:
            resized = self._resized(image, width, height)
            return resized.crop((left, top, left + size, top + size))
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), _RESAMPLING[self.interpolation], box=box)

    def _longest(self, image: Image.Image) -> Image.Image:
        size = self.image_size
        ratio = max(image.size) / size
        # keep at least one row of a strip; open_clip fails here
        width, height = (max(1, round(side / ratio)) for side in image.size)
        resized = self._resized(image, width, height)
        across, down = size - width, size - height
        if not across and not down:
            return resized
        bands = len(resized.getbands())
        filled = ImageOps.expand(
            resized,
            (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2),
            fill=self.fill_color if bands == 1 else (self.fill_color,) * bands,
        )
        if resized.mode == "P" and (palette := resized.getpalette()) is not None:
            filled.putpalette(palette)
        return filled
