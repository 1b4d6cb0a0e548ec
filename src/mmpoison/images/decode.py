"""Decode image files, which are untrusted, into packed pixels at a model's resolution."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmpoison.base.phrasing import one_line
from mmpoison.base.progress import Progress
from mmpoison.errors import InputError
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import open_image, refuse_other_pixels

MAX_PIXELS = 100_000_000
"""A picture with more pixels than this is refused before it is decoded (a decompression bomb)."""

MAX_SIDE = 65_535
"""A picture with a longer side is refused before it is decoded: JPEG and GIF can hold no longer one. A strip of one row
costs as much memory as its pixels many times over, in the tables of every resizing."""

MAX_PIXELS_IN_PYTHON = 4_000_000
"""A picture with more pixels in one of the few formats that Pillow decodes in Python (packed BMP, PPM as text) is
refused: 7 kB of packed BMP may hold 100 million pixels, which take half a minute."""

MAX_SCANS = 100
"""A progressive JPEG with more scans is refused: each takes a few bytes, and a pass over all pixels. Ten are usual."""

LARGE = 1 << 24
"""Pictures with more pixels are decoded one at a time: each may take over a gigabyte, and threads are many."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are opened; others (PDF, EPS, ...) run far more code than a photo needs."""


def _quieten() -> None:
    """Silence Pillow's warnings, again where a caller's `catch_warnings` has put back the filters from before.

    For the process, since `catch_warnings` around one image is not safe between threads.
    """
    known = {entry[2] for entry in warnings.filters if entry[0] == "ignore"}
    if Image.DecompressionBombWarning not in known:
        # our own limit names the file
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        # half-broken metadata, which do not concern the pixels
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


ImageFault = Literal[
    "missing", "no-access", "broken", "truncated", "no-image", "too-large", "no-memory"
]
"""Why an image cannot be used: there is no such file; it cannot be opened or read; what is in it is broken; it ends too
early; it is of no known format; it has too many pixels or bytes; there was no memory for it, which another day may be
otherwise."""

HEADER = 1 << 16
_PPM_HEADER = re.compile(rb"P[0-9yFf](?:\s|#[^\n]*\n)+\S{1,20}(?:(?:\s|#[^\n]*\n)+\S{1,20}){1,2}\s")

_one_large = threading.Lock()


def _renew_lock() -> None:
    global _one_large
    _one_large = threading.Lock()


# a lock that another thread held during a fork would stay locked in the child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class BrokenImage(InputError):
    """One image of a data set cannot be used.

    Attributes:
        fault: The kind of fault.
    """

    def __init__(self, message: str, fault: ImageFault) -> None:
        super().__init__(message)
        self.fault = fault


@contextmanager
def picture(root: Path, image_id: str) -> Iterator[Image.Image]:
    """Open one image; whatever goes wrong with it while the block runs is one line.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.

    Yields:
        The picture, whose pixels are not decoded yet.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image, or is one that an
            attack made and has other pixels than its id says.
    """
    path = root / image_id
    try:
        stream = open_image(root, image_id)
    except InputError as error:
        raise BrokenImage(str(error), _fault_of_opening(error)) from None
    with stream, _opened(stream, str(path), MAX_PIXELS) as image:
        try:
            refuse_other_pixels(image_id, image, str(path))
        except InputError as error:
            raise BrokenImage(str(error), "broken") from None
        yield image


@contextmanager
def _opened(
    stream: BinaryIO,
    name: str,
    max_pixels: int,
    formats: tuple[str, ...] = FORMATS,
    max_side: int = MAX_SIDE,
) -> Iterator[Image.Image]:
    """Open the picture in a stream of bytes; whatever goes wrong with it while the block runs is one line."""
    _quieten()
    try:
        _check_header(stream, name)
        with Image.open(stream, formats=formats) as image:
            pixels = image.width * image.height
            _check_size(image, name, max_pixels, max_side)
            _check_scans(image, stream, name)
            with _one_large if pixels > LARGE else nullcontext():
                yield image
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise BrokenImage(f"{name}: too many pixels (a decompression bomb?)", "too-large") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"{name}: not an image of a known format", "no-image") from None
    except MemoryError:
        raise BrokenImage(f"{name}: there is not enough memory to decode it", "no-memory") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenImage(
            f"{name}: broken image ({one_line(str(error))})", _fault(error, stream)
        ) from None
    except Exception as error:  # a library may raise anything for untrusted bytes
        raise BrokenImage(
            f"{name}: broken image ({type(error).__name__}: {one_line(str(error))})", "broken"
        ) from None


def _check_header(stream: BinaryIO, name: str) -> None:
    """Refuse a PPM file whose header is long: Pillow reads it byte by byte."""
    head = stream.read(HEADER)
    stream.seek(0)
    if re.match(rb"P[0-9yFf]", head) and not _PPM_HEADER.match(head):
        raise BrokenImage(f"{name}: broken image (a PPM header without end)", "broken")


def _check_size(image: Image.Image, name: str, max_pixels: int, max_side: int) -> None:
    size = f"{name}: {image.width} x {image.height} pixels"
    if image.width * image.height > max_pixels:
        raise BrokenImage(f"{size} is over the limit of {max_pixels:,}", "too-large")
    if max(image.size) > max_side:
        raise BrokenImage(f"{size}: a side is over the limit of {max_side:,}", "too-large")
    # Pillow's table of the decoders that are written in Python
    slow = any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())[:1])
    if slow and image.width * image.height > MAX_PIXELS_IN_PYTHON:
        raise BrokenImage(
            f"{size} is over the limit of {MAX_PIXELS_IN_PYTHON:,} for a packed or text {image.format}: "
            "save it as PNG",
            "too-large",
        )


def _check_scans(image: Image.Image, stream: BinaryIO, name: str) -> None:
    if not image.info.get("progressive"):
        return
    place = stream.tell()
    stream.seek(0)
    scans, last = 0, b""
    while scans <= MAX_SCANS and (block := stream.read(1 << 20)):
        # within pixels the byte FF is never followed by another than 0 or a restart
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    stream.seek(place)
    if scans > MAX_SCANS:
        raise BrokenImage(
            f"{name}: a progressive JPEG of more than {MAX_SCANS} scans (a bomb?)", "too-large"
        )


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
    with picture(root, image_id) as image:
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


def read_small_jpeg(data: bytes, side: int) -> Pixels:
    """Read a JPEG that is small or nothing, such as a thumbnail in a file from outside.

    Args:
        data: The bytes of the file.
        side: A picture with a longer side is refused before it is decoded.

    Returns:
        RGB, shape `(height, width, 3)`.

    Raises:
        BrokenImage: If it is no JPEG, too large, or broken.
    """
    with _opened(io.BytesIO(data), "the picture", side * side, ("JPEG",), side) as image:
        return np.array(image.convert("RGB"))


def decode_images(
    root: Path,
    ids: Sequence[str],
    preparation: Preparation | int,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Pixels, dict[int, BrokenImage]]:
    """Decode many images, each once, and return those that cannot be read next to the pixels.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        preparation: As for `read_image`.
        workers: Threads (decoding leaves Python's lock); the number of cores by default.
        progress: Called with (done, total).

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
        try:
            for done, _ in enumerate(pool.map(decode, range(len(ids))), start=1):
                if progress is not None and (done % 64 == 0 or done == len(ids)):
                    progress(done, len(ids))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return pixels, dict(sorted(broken.items()))


def _fault_of_opening(error: InputError) -> ImageFault:
    if "cut short" in str(error):
        return "truncated"  # inside a shard
    if "over the limit" in str(error):
        return "too-large"
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
