"""Decode image files, which are untrusted, into packed pixels at a model's resolution."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmpoison.errors import InputError
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import open_image

MAX_PIXELS = 100_000_000
"""A picture with more pixels than this is refused before it is decoded (a decompression bomb)."""

TRANSFORM = "open_clip's evaluation transform; 2"
"""Names what `read_image` does; whoever changes its pixels changes this too, and stored pixels are made anew."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; others (PDF, EPS, ...) run far more code than a photo needs."""

# our own limit names the file; once for the process, since the filter of warnings is not safe between threads
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# half-broken metadata, which do not concern the pixels
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

ImageFault = Literal["missing", "no-access", "broken", "truncated", "no-image", "too-large"]
"""Why an image cannot be used: there is no such file; it cannot be opened or read; what is in it is broken; it ends too
early; it is of no known format; it has too many pixels."""


class BrokenImage(InputError):
    """One image of a data set cannot be used.

    Attributes:
        fault: The kind of fault.
    """

    def __init__(self, message: str, fault: ImageFault) -> None:
        super().__init__(message)
        self.fault = fault


@contextmanager
def picture(root: Path, image_id: str) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """Open one image; whatever goes wrong with it while the block runs is one line.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.

    Yields:
        The stream of its bytes, and the picture, whose pixels are not decoded yet.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image.
    """
    path = root / image_id
    try:
        stream = open_image(root, image_id)
    except InputError as error:
        raise BrokenImage(str(error), _fault_of_opening(error)) from None
    with stream, _opened(stream, str(path), MAX_PIXELS) as image:
        yield stream, image


@contextmanager
def _opened(stream: BinaryIO, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """Open the picture in a stream of bytes; whatever goes wrong with it while the block runs is one line."""
    try:
        with Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise BrokenImage(
                    f"{name}: {image.width} x {image.height} pixels is over the limit of {max_pixels:,}",
                    "too-large",
                )
            yield image
    except Image.DecompressionBombError:
        raise BrokenImage(f"{name}: too many pixels (a decompression bomb?)", "too-large") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"{name}: not an image of a known format", "no-image") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise BrokenImage(f"{name}: broken image ({error})", _fault(error, stream)) from None


def read_image(root: Path, image_id: str, preparation: Preparation | int) -> Pixels:
    """Read one image as a model sees it.

    As in open_clip's own pipeline, an orientation in the EXIF data is not applied, an animation is its first frame, and
    transparency is dropped.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.
        preparation: How it is resized and cropped; a number is the side in pixels of CLIP's own way.

    Returns:
        RGB, shape `(size, size, 3)`.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image.
    """
    with picture(root, image_id) as (_, image):
        return Preparation.of(preparation).apply(image)


def read_image_bytes(
    data: bytes,
    preparation: Preparation | int,
    *,
    name: str = "the picture",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Read a picture that is no file of a data set as a model sees it; otherwise like `read_image`.

    Args:
        data: The bytes of the file.
        preparation: As for `read_image`.
        name: What to call it in messages.
        max_pixels: A picture with more pixels is refused before it is decoded.

    Returns:
        RGB, shape `(size, size, 3)`.

    Raises:
        BrokenImage: If it is too large, truncated or not an image.
    """
    with _opened(io.BytesIO(data), name, max_pixels) as image:
        return Preparation.of(preparation).apply(image)


def decode_images(
    root: Path,
    ids: Sequence[str],
    preparation: Preparation | int,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pixels:
    """Decode many images, each once.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        preparation: As for `read_image`.
        workers: Threads (decoding leaves Python's lock); the number of cores by default.
        progress: Called with (done, total).

    Returns:
        RGB, shape `(n, size, size, 3)`.

    Raises:
        InputError: If any image cannot be read: their number, and the first by name.
    """
    pixels, broken = try_decode_images(root, ids, preparation, workers=workers, progress=progress)
    if broken:
        more = f" (and {len(broken) - 1} more broken images)" if len(broken) > 1 else ""
        raise InputError(f"{min(map(str, broken.values()))}{more}")
    return pixels


def try_decode_images(
    root: Path,
    ids: Sequence[str],
    preparation: Preparation | int,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Pixels, dict[int, BrokenImage]]:
    """Decode many images as `decode_images` does, and give those that cannot be read beside the pixels.

    Returns:
        RGB, shape `(n, size, size, 3)`, without meaning in the rows of broken images; and these by row.
    """
    preparation = Preparation.of(preparation)
    size = preparation.image_size
    pixels = np.empty((len(ids), size, size, 3), dtype=np.uint8)
    broken: dict[int, BrokenImage] = {}

    def decode(index: int) -> None:
        try:
            pixels[index] = read_image(root, ids[index], preparation)
        except BrokenImage as error:
            broken[index] = error

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(decode, range(len(ids)), chunksize=64), start=1):
            if progress is not None and (done % 256 == 0 or done == len(ids)):
                progress(done, len(ids))
    return pixels, dict(sorted(broken.items()))


def _fault_of_opening(error: InputError) -> ImageFault:
    if "cut short" in str(error):
        return "truncated"  # inside a shard
    missing = isinstance(error.__context__, (FileNotFoundError, KeyError))
    return "missing" if missing or "no such" in str(error) else "no-access"


def _fault(error: Exception, stream: BinaryIO) -> ImageFault:
    if isinstance(error, OSError) and error.errno is not None:
        return "no-access"  # the disk's own error; Pillow's carry no number
    if "truncated" in str(error).lower():
        return "truncated"
    try:
        # WebP's decoder does not say what is wrong, but its header holds the length of the file
        stream.seek(0)
        head = stream.read(12)
        if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > stream.seek(0, 2):
            return "truncated"
    except (OSError, ValueError):
        pass
    return "broken"
