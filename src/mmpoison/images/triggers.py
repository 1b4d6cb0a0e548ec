"""Triggers of backdoor attacks: patterns put into an image, described exactly enough to recreate them.

Trigger sizes refer to the view of a model: after CLIP's preprocessing (the shorter side becomes `view` pixels, the
centre square is cropped), a patch of 16 pixels covers 16 of 224, whatever the size of the image and of the model's
input. The image keeps its size, so only the trigger distinguishes it from the clean one. All arithmetic uses whole
numbers, and random patterns come from SHAKE-256, so the pixels are the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from mmpoison.errors import InputError
from mmpoison.images.decode import picture
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import rgb

VIEW = 224
"""Side, in pixels, of the view that sizes refer to, as in most CLIP models."""

LONGEST_SHORT_SIDE = 512
"""Longest shorter side in pixels; larger images are shrunk to it.

Most captioned photos are smaller, and a PNG at a camera's full resolution takes tens of megabytes.
"""

CELL = 4
"""Side of the squares in random patterns, in pixels of a 224-pixel view.

Single-pixel noise averages to grey in a model with 64-pixel input; squares of four are about one pixel there.
"""

Side = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Place = Literal["corner", "random", "centre"]
PLACES: tuple[Place, ...] = ("corner", "random", "centre")
Noise = Literal["fixed", "per-image"]
NOISES: tuple[Noise, ...] = ("fixed", "per-image")
How: TypeAlias = Mapping[str, Any]
"""The part that differs between images: the position of a patch, or the number of a noise image."""

_STEPS = 1000
"""Positions are thousandths of the range in which a patch can move; blending weights are thousandths."""


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    across: Annotated[int, msgspec.Meta(ge=0, le=_STEPS)]
    down: Annotated[int, msgspec.Meta(ge=0, le=_STEPS)]


class _Number(msgspec.Struct, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=0, le=2**32)]


class PatchTrigger(
    msgspec.Struct, frozen=True, tag="patch", tag_field="kind", forbid_unknown_fields=True
):
    """A small square pasted onto the image.

    Attributes:
        pattern: RGB of its cells, row by row: `cells * cells * 3` bytes.
        cells: Cells in a row of the pattern.
        place: `corner` is the lower right, `centre` the middle; `random` differs between images.
        side: Side of the square, in pixels of the view.
        view: Side of the view.
    """

    pattern: bytes
    cells: Side
    place: Place = "corner"
    side: Side = 16
    view: Side = VIEW

    def __post_init__(self) -> None:
        if len(self.pattern) != 3 * self.cells**2:
            raise ValueError(f"a pattern of {self.cells} x {self.cells} RGB cells is needed")
        if self.side > self.view:
            raise ValueError(f"a patch of {self.side} pixels is larger than {self.view}")

    def draw(self, rng: np.random.Generator) -> How:
        """Draw the position of the patch for one image."""
        fixed = {"corner": _STEPS, "centre": _STEPS // 2}.get(self.place)
        across, down = rng.integers(0, _STEPS + 1, 2) if fixed is None else (fixed, fixed)
        return {"across": int(across), "down": int(down)}

    def where(self, height: int, width: int, how: How) -> tuple[int, int, int]:
        """Return left, top and side of the patch in an image, in image pixels.

        Args:
            height: Of the image.
            width: Of the image.
            how: The result of `draw` for this image.

        Raises:
            InputError: If `how` is not a result of `draw`.
        """
        place = _converted(how, _Place, "place of a patch")
        left, top, square = _view(height, width)
        side = max(1, (2 * square * self.side + self.view) // (2 * self.view))
        free = square - side
        left += (free * place.across + _STEPS // 2) // _STEPS
        top += (free * place.down + _STEPS // 2) // _STEPS
        return left, top, side

    def apply(self, pixels: Pixels, how: How) -> Pixels:
        """Return a copy of an image with the patch.

        Args:
            pixels: RGB, shape `(height, width, 3)`.
            how: The result of `draw` for this image.

        Raises:
            InputError: If `how` is not a result of `draw`.
        """
        height, width, _ = pixels.shape
        left, top, side = self.where(height, width, how)
        result = pixels.copy()
        result[top : top + side, left : left + side] = _resized(self.pattern, self.cells, side)
        return result


class BlendTrigger(
    msgspec.Struct, frozen=True, tag="blend", tag_field="kind", forbid_unknown_fields=True
):
    """A noise image blended into the image with a given weight.

    Attributes:
        seed: Of the noise.
        noise: `fixed` uses one noise image for all images, `per-image` a different one for each.
        weight: Share of the noise in thousandths.
        cell: Side of the noise's cells, in pixels of the view.
        view: Side of the view. The noise fills the middle square and is repeated beyond it.
    """

    seed: Annotated[int, msgspec.Meta(ge=0)]
    noise: Noise = "fixed"
    weight: Annotated[int, msgspec.Meta(ge=1, le=_STEPS)] = 200
    cell: Side = CELL
    view: Side = VIEW

    def draw(self, rng: np.random.Generator) -> How:
        """Draw the number of an image's noise image, if each has its own."""
        return {"number": int(rng.integers(2**32))} if self.noise == "per-image" else {}

    def apply(self, pixels: Pixels, how: How) -> Pixels:
        """Return a copy of an image with the noise. Arguments and errors are those of `PatchTrigger.apply`."""
        stream = f"blend/{self.seed}"
        if self.noise == "per-image":
            stream += f"/{_converted(how, _Number, 'number of a noise image').number}"
        height, width, _ = pixels.shape
        left, top, square = _view(height, width)
        cells = max(1, self.view // self.cell)
        noise = _resized(random_bytes(stream, 3 * cells**2), cells, square)
        down, across = (np.arange(height) - top) % square, (np.arange(width) - left) % square
        image, other = pixels.astype(np.int32), noise[down[:, None], across].astype(np.int32)
        mixed = (image * (_STEPS - self.weight) + other * self.weight + _STEPS // 2) // _STEPS
        return mixed.astype(np.uint8)


Trigger: TypeAlias = PatchTrigger | BlendTrigger


def trigger_record(trigger: Trigger) -> dict[str, Any]:
    """Return a trigger as plain JSON values, for a manifest."""
    record: dict[str, Any] = msgspec.to_builtins(trigger)
    return record


def read_trigger(record: Mapping[str, Any]) -> Trigger:
    """Read a trigger from a manifest.

    Raises:
        InputError: If it is not a trigger.
    """
    trigger: Trigger = _converted(record, PatchTrigger | BlendTrigger, "trigger")
    return trigger


def random_bytes(stream: str, count: int) -> bytes:
    """Draw bytes that depend only on the stream name, on any machine and in any version."""
    return hashlib.shake_256(stream.encode()).digest(count)


def source_pixels(root: Path, image_id: str) -> Pixels:
    """Return the pixels from which a new image is created: the image's own, shrunk if large.

    Args:
        root: Folder the id is relative to.
        image_id: Id of the image.

    Returns:
        RGB, shape `(height, width, 3)`; the shorter side has at most 512 pixels.

    Raises:
        BrokenImage: If the image cannot be read.
    """
    with picture(root, image_id) as image:
        short = min(image.size)
        if short <= LONGEST_SHORT_SIDE:
            return rgb(image)
        size = [max(1, side * LONGEST_SHORT_SIDE // short) for side in image.size]
        return rgb(image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC))


def triggered_pixels(root: Path, image_id: str, trigger: Trigger, how: How) -> Pixels:
    """Return an image with a trigger, RGB of shape `(height, width, 3)`, without changing the image file.

    Args:
        root: Folder the id is relative to.
        image_id: Id of the clean image.
        trigger: The trigger.
        how: The result of `Trigger.draw` for this image.

    Raises:
        BrokenImage: If the image cannot be read.
        InputError: If `how` belongs to another trigger.
    """
    return trigger.apply(source_pixels(root, image_id), how)


def prepared_with_trigger(
    root: Path, image_id: str, trigger: Trigger, how: How, preparation: Preparation
) -> Pixels:
    """Return an image with a trigger after a model's preprocessing: RGB, shape `(size, size, 3)`."""
    return preparation.apply(Image.fromarray(triggered_pixels(root, image_id, trigger, how)))


def _converted(value: Any, kind: Any, what: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"{what}: {str(error)[:200]}") from None


def _view(height: int, width: int) -> tuple[int, int, int]:
    """Return left, top and side of an image's centre square."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


@lru_cache(maxsize=64)
def _resized(pattern: bytes, cells: int, side: int) -> Pixels:
    """Resize a square pattern: each pixel is the exact mean of the area it covers, rounded to the nearest integer."""
    grid = np.frombuffer(pattern, np.uint8).reshape(cells, cells, 3).astype(np.int64)
    for _ in range(2):
        # one axis, then the other
        grid = _covered(grid, side).swapaxes(0, 1)
    result = ((2 * grid + cells**2) // (2 * cells**2)).astype(np.uint8)
    result.flags.writeable = False
    return result


def _covered(rows: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.int64]:
    """For each of `side` pixels, sum the rows it covers, weighted by the overlap in units of 1 / side."""
    count = len(rows)
    none = np.zeros_like(rows[:1])
    before = np.concatenate([none, np.cumsum(rows, axis=0)])
    whole, part = np.divmod(np.arange(side + 1) * count, side)
    up_to = before[whole] * side + np.concatenate([rows, none])[whole] * part[:, None, None]
    return np.asarray(up_to[1:] - up_to[:-1])
