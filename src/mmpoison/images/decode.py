"""Decodes untrusted image files to packed pixels at a model's resolution, and to thumbnails for people."""

from __future__ import annotations

import base64
import io
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmpoison.base.progress import Progress
from mmpoison.base.text import one_line
from mmpoison.errors import InputError
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import open_image, refuse_other_pixels

MAX_PIXELS = 100_000_000
"""Maximum number of pixels of an image; larger ones (decompression bombs) are refused before decoding."""

MAX_SIDE = 65_535
"""Longest side of an image, the limit of JPEG and GIF; longer ones are refused before decoding.

Resizing a one-row strip needs tables many times larger than its pixels.
"""

MAX_PIXELS_IN_PYTHON = 4_000_000
"""Maximum number of pixels in the few formats that Pillow decodes in Python (packed BMP, text PPM): 7 kB of packed BMP
may contain 100 million pixels, which take half a minute."""

MAX_SCANS = 100
"""Maximum number of scans of a progressive JPEG: each takes a few bytes but a pass over all pixels. Ten are usual."""

LARGE = 1 << 24
"""Images with more pixels are decoded one at a time: each may take over a gigabyte, and there are many threads."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Accepted formats; others (PDF, EPS, ...) run far more code than a photo needs."""


def _quieten() -> None:
    """Silence Pillow's warnings, also after a caller's `catch_warnings` restored earlier filters.

    This affects the whole process, because `catch_warnings` around one image is not thread-safe.
    """
    known = {entry[2] for entry in warnings.filters if entry[0] == "ignore"}
    if Image.DecompressionBombWarning not in known:
        # our own limit names the file
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        # damaged metadata, which do not affect the pixels
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


ImageFault = Literal[
    "missing", "no-access", "broken", "truncated", "no-image", "too-large", "no-memory"
]
"""Why an image is unusable: the file is missing; it cannot be opened or read; its content is broken; it is truncated;
its format is unknown; it has too many pixels or bytes; or there was not enough memory, which may change."""

HEADER = 1 << 16
_PPM_HEADER = re.compile(rb"P[0-9yFf](?:\s|#[^\n]*\n)+\S{1,20}(?:(?:\s|#[^\n]*\n)+\S{1,20}){1,2}\s")

_one_large = threading.Lock()


def _renew_lock() -> None:
    global _one_large
    _one_large = threading.Lock()


# a lock held by another thread during a fork would stay locked in the child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class BrokenImage(InputError):
    """Raised if an image of a data set is unusable.

    Attributes:
        fault: The kind of fault.
    """

    def __init__(self, message: str, fault: ImageFault) -> None:
        super().__init__(message)
        self.fault = fault


@contextmanager
def picture(root: Path, image_id: str) -> Iterator[Image.Image]:
    """Open one image, and convert any error in the block to a one-line `BrokenImage`.

    Args:
        root: Folder the id is relative to. The file must be inside it after resolving symbolic links.
        image_id: Relative path.

    Yields:
        The image, with pixels not decoded yet.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image, or if an image
            created by an attack does not have the pixels of its id.
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
    """Open the image in a byte stream, and convert any error in the block to a one-line `BrokenImage`."""
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
    """Refuse a PPM file with a long header, which Pillow reads byte by byte."""
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
    # Pillow's table of decoders written in Python
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
        # within pixel data, the byte FF is followed only by 0 or a restart marker
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    stream.seek(place)
    if scans > MAX_SCANS:
        raise BrokenImage(
            f"{name}: progressive JPEG of over {MAX_SCANS} scans (decompression bomb?)", "too-large"
        )


def read_image(root: Path, image_id: str, preparation: Preparation | int) -> Pixels:
    """Read one image with a model's preprocessing.

    As in open_clip's own pipeline, EXIF orientation is ignored, animations use the first frame, and transparency is
    dropped.

    Args:
        root: Folder the id is relative to. The file must be inside it after resolving symbolic links.
        image_id: Relative path.
        preparation: How to resize and crop it; a number means CLIP's preprocessing with this side in pixels.

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
    """Read an image outside a data set with a model's preprocessing; otherwise like `read_image`.

    Args:
        data: The bytes of the file.
        preparation: See `read_image`.
        name: Its name in messages.
        max_pixels: Maximum number of pixels; larger images are refused before decoding.

    Returns:
        RGB, shape `(size, size, 3)`.

    Raises:
        BrokenImage: If the data are too large, truncated or not an image.
    """
    with _opened(io.BytesIO(data), name, max_pixels) as image:
        return Preparation.of(preparation).apply(image)


def read_small_jpeg(data: bytes, side: int) -> Pixels:
    """Read a JPEG that must be small, such as a thumbnail in an untrusted file.

    Args:
        data: The bytes of the file.
        side: Longest side in pixels; larger images are refused before decoding.

    Returns:
        RGB, shape `(height, width, 3)`.

    Raises:
        BrokenImage: If the data are not a JPEG, too large, or broken.
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
    """Decode many images, each once; return the pixels and the broken images.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        preparation: See `read_image`.
        workers: Threads (decoding releases Python's lock); the number of cores by default.
        progress: Called with (done, total).

    Returns:
        RGB, shape `(n, size, size, 3)`, undefined for broken images; and the broken images by row.
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
        return "no-access"  # a disk error; Pillow's errors have no number
    if "truncated" in str(error).lower():
        return "truncated"
    try:
        # WebP's decoder does not report the problem, but the header contains the file length
        stream.seek(0)
        head = stream.read(12)
        if head[:4] == b"RIFF" and int.from_bytes(head[4:8], "little") + 8 > stream.seek(0, 2):
            return "truncated"
    except (OSError, ValueError):
        pass
    return "broken"


def thumbnail(root: Path, image_id: str, side: int) -> bytes:
    """Create a JPEG of a whole image, upright, with a longest side of at most `side` pixels.

    It is for people: unlike a model's input it is not cropped, and EXIF orientation is applied. Only pixels of the file
    remain.

    Args:
        root: Folder the id is relative to. The file must be inside it after resolving symbolic links.
        image_id: Relative path.
        side: Pixels.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image.
    """
    with picture(root, image_id) as image:
        image.draft("RGB", (side, side))  # decode a large JPEG at an eighth of its size
        transparent = image.mode in ("RGBA", "LA", "PA", "P")
        kind = "RGBA" if transparent else "RGB"
        small = image if image.mode == kind else image.convert(kind)
        # shrink first, because all further steps copy
        small.thumbnail((side, side))
        small = _upright(small)
        if transparent:
            # transparency is white, as on a page
            white = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(white, small).convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.getexif()
    except Exception:  # untrusted metadata, on which no pixel depends, may break in any way
        return image
    # Pillow would write this again, and may fail
    image.info = {}
    return ImageOps.exif_transpose(image)


# -- Images with captions as HTML, for notebooks.


SHOWN = 8
"""Images in a row."""

SIDE = 112
"""Longer side of an image, in pixels."""

LONGEST_CAPTION = 200
"""Maximum number of characters shown of a caption."""

_CARD = (
    '<figure style="display:inline-block;width:{side}px;margin:4px;vertical-align:top">'
    '<img src="{address}" alt="{image}" title="{image}" style="max-width:100%">'
    '<figcaption style="font-size:smaller;overflow-wrap:anywhere">{mark}{caption}</figcaption></figure>'
)


@dataclass(repr=False)
class PictureRow:
    """Images with captions, shown in notebooks; elsewhere only the title is shown.

    Attributes:
        title: Title above the images.
        html: The HTML for notebooks.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return self.title

    def _repr_html_(self) -> str:
        return self.html


def picture_card(address: str, image_id: str, caption: str, mark: str = "") -> str:
    """Create HTML for an image and its caption.

    Args:
        address: The image as a `data:` address, which is not escaped.
        image_id: Shown as a tooltip.
        caption: Cut at `LONGEST_CAPTION` characters.
        mark: Shown in bold before the caption.

    Returns:
        HTML in which id, caption and mark are escaped.
    """
    text = caption if len(caption) <= LONGEST_CAPTION else f"{caption[:LONGEST_CAPTION]}..."
    return _CARD.format(
        side=SIDE,
        address=address,
        image=escape(image_id),
        mark=f"<b>{escape(mark)}</b> " if mark else "",
        caption=escape(text),
    )


def picture_row(
    title: str, root: Path, pairs: Iterable[tuple[str, str, bool]], most: int = SHOWN
) -> str:
    """Create HTML for a title and the first few readable images, which are embedded.

    Args:
        title: Title above the images.
        root: Folder the ids are relative to.
        pairs: Image id, caption and whether the pair is poisoned. Broken images are skipped.
        most: Maximum number of images to show.

    Returns:
        HTML in which everything from the data is escaped.
    """
    cards: list[str] = []
    for image_id, caption, poisoned in pairs:
        if len(cards) == most:
            break
        try:
            data = thumbnail(root, image_id, SIDE)
        except InputError:
            continue
        address = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        cards.append(picture_card(address, image_id, caption, "poisoned:" if poisoned else ""))
    return f"<div><p>{escape(title)}</p>{''.join(cards)}</div>"
