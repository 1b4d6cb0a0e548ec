"""Decode image files, which are untrusted, into packed pixels at a model's resolution."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mmpoison.datasets.pairs import IntArray, PairDataset
from mmpoison.errors import InputError
from mmpoison.images.sources import open_image

MAX_PIXELS = 100_000_000
"""A picture with more pixels than this is refused before it is decoded (a decompression bomb)."""

LONGEST_STRIP = 32
"""Of a picture that is longer than so many times its shorter side, the middle is cut out before it is resized."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; others (PDF, EPS, ...) run far more code than a photo needs."""

# our own limit names the file; once for the process, since the filter of warnings is not safe between threads
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Pixels = npt.NDArray[np.uint8]


def read_image(root: Path, image_id: str, size: int) -> Pixels:
    """Read one image as CLIP sees it: shorter side to `size` (bicubic), centre crop.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.
        size: Side in pixels.

    Returns:
        RGB, shape `(size, size, 3)`.

    Raises:
        InputError: If the file is missing, outside the root, too large, truncated or not an image.
    """
    path = root / image_id
    try:
        with (
            open_image(root, image_id) as stream,
            Image.open(stream, formats=FORMATS) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS:,}"
                )
            return _fit(image.convert("RGB"), size)
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too many pixels (a decompression bomb?)") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image of a known format") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: broken image ({error})") from None


def decode_images(
    root: Path,
    ids: Sequence[str],
    size: int,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Decode many images, each once.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        size: Side in pixels.
        workers: Threads (decoding leaves Python's lock); the number of cores by default.
        progress: Called with (done, total).

    Returns:
        RGB, shape `(n, size, size, 3)`.

    Raises:
        InputError: If any image cannot be read: their number, and the first by name.
    """
    pixels = np.empty((len(ids), size, size, 3), dtype=np.uint8)
    broken: list[str] = []

    def decode(index: int) -> None:
        try:
            pixels[index] = read_image(root, ids[index], size)
        except InputError as error:
            broken.append(str(error))

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(ids)), chunksize=64), start=1):
            if progress is not None and (done % 256 == 0 or done == len(ids)):
                progress(done, len(ids))
    if broken:
        more = f" (and {len(broken) - 1} more broken images)" if len(broken) > 1 else ""
        raise InputError(f"{min(broken)}{more}")
    return pixels


@dataclass(frozen=True)
class PixelStore:
    """Decoded images of a data set, addressed by the data set's image index.

    Attributes:
        pixels: Shape `(n, size, size, 3)`, uint8.
        position: Row of `pixels` for each image of the table, -1 where it was not decoded, shape `(I,)`.
    """

    pixels: Pixels
    position: IntArray

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return int(self.pixels.shape[1])

    @classmethod
    def decode(
        cls,
        pairs: PairDataset,
        size: int,
        *,
        indices: IntArray | None = None,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PixelStore:
        """Decode the images at `indices` (all by default), each once."""
        wanted = np.arange(len(pairs.images), dtype=np.int32) if indices is None else indices
        position = np.full(len(pairs.images), -1, dtype=np.int32)
        position[wanted] = np.arange(len(wanted), dtype=np.int32)
        ids = [str(image_id) for image_id in pairs.images.ids[wanted]]
        pixels = decode_images(pairs.root, ids, size, workers=workers, progress=progress)
        return cls(pixels, position)

    def take(self, indices: IntArray) -> Pixels:
        """Pixels of the images at `indices`, shape `(n, size, size, 3)`.

        Raises:
            InputError: If one of them was not decoded.
        """
        rows = self.position[indices]
        if rows.size and rows.min() < 0:
            raise InputError(f"image {int(indices[rows.argmin()])} was not decoded")
        return np.asarray(self.pixels[rows])


def _fit(image: Image.Image, size: int) -> Pixels:
    short = min(image.size)
    if short == 0:
        raise ValueError("an empty image")
    if max(image.size) > LONGEST_STRIP * short:
        # a long thin strip grows to more than the memory holds; only its middle is seen
        width, height = (min(side, LONGEST_STRIP * short) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if short != size:
        scale = size / short
        image = image.resize(
            (max(size, round(image.width * scale)), max(size, round(image.height * scale))),
            Image.Resampling.BICUBIC,
        )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
