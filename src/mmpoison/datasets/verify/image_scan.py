"""One pass over the image files of a data set: which are broken, what they are, and a few bytes to compare each by."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mmpoison.base.extras import is_installed
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, ImageFault, orientation, picture

Hashes = npt.NDArray[np.uint64]

SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
}
_ALL_SUFFIXES = frozenset().union(*SUFFIXES.values())

HASHED_AT_ONCE = 1 << 20
"""Pixels that are put into bytes at a time."""


@dataclass
class ImageScan:
    """The result of one pass over `n` images; 8 bytes a hash, so 24 bytes an image.

    Attributes:
        readable: Which images can be decoded whole, shape `(n,)`.
        file_hash: Of the bytes of the file, shape `(n,)`.
        pixel_hash: Of size and RGB pixels, shape `(n,)`; equal also where one file was saved again without loss.
        perceptual: Perceptual hash (pHash, 64 bits), shape `(n,)`, or None where imagehash is not installed.
        faults: What is wrong with each broken image, by its position.
        wrong_suffix: Position and true format of images whose name says another format.
        animated: Positions of images with several frames.
        rotated: Positions of images with an EXIF orientation.
        formats: Number of images of each format.
        smallest: Shortest side of the smallest image in pixels, 0 without images.
        largest: Longest side of the largest image in pixels.
    """

    readable: npt.NDArray[np.bool_]
    file_hash: Hashes
    pixel_hash: Hashes
    perceptual: Hashes | None
    faults: dict[int, BrokenImage] = field(default_factory=dict)
    wrong_suffix: dict[int, str] = field(default_factory=dict)
    animated: list[int] = field(default_factory=list)
    rotated: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    smallest: int = 0
    largest: int = 0

    def of_fault(self, *faults: ImageFault) -> list[int]:
        """Return the sorted positions of the images with one of some faults."""
        return sorted(index for index, error in self.faults.items() if error.fault in faults)


def can_hash_perceptually() -> bool:
    """Return whether the library of perceptual hashes (extra `data`) is installed."""
    return is_installed("imagehash")


def scan_images(
    root: Path,
    ids: Sequence[str],
    *,
    perceptual: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageScan:
    """Decode every image whole, once.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        perceptual: Compute perceptual hashes too, if the library is installed.
        workers: Threads; the number of cores by default.
        progress: Called with (done, total).
    """
    count = len(ids)
    hash_perceptually = perceptual and can_hash_perceptually()
    scan = ImageScan(
        readable=np.zeros(count, dtype=bool),
        file_hash=np.zeros(count, dtype=np.uint64),
        pixel_hash=np.zeros(count, dtype=np.uint64),
        perceptual=np.zeros(count, dtype=np.uint64) if hash_perceptually else None,
    )
    threads = workers or os.cpu_count() or 1
    positions = iter(range(count))

    def scan_one(index: int) -> _ImageFacts | BrokenImage:
        try:
            return _examine(root, ids[index], hash_perceptually)
        except BrokenImage as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        # a bounded queue: a future for each of a million images would hold more than their hashes
        ahead: deque[tuple[int, Future[_ImageFacts | BrokenImage]]] = deque(
            (index, pool.submit(scan_one, index)) for index in islice(positions, 64 * threads)
        )
        done = 0
        while ahead:
            index, future = ahead.popleft()
            _note(scan, index, ids[index], future.result())
            if (following := next(positions, None)) is not None:
                ahead.append((following, pool.submit(scan_one, following)))
            done += 1
            if progress is not None and (done % 64 == 0 or done == count):
                progress(done, count)
    return scan


@dataclass(frozen=True)
class _ImageFacts:
    format: str
    width: int
    height: int
    file_hash: int
    pixel_hash: int
    perceptual: int
    animated: bool
    rotated: bool


def _examine(root: Path, image_id: str, hash_perceptually: bool) -> _ImageFacts:
    with picture(root, image_id) as (stream, image):
        image.load()
        # the same picture, not a copy, since it may be large
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        width, height = rgb.size
        if not width or not height:
            raise ValueError("an empty image")
        pixels = hashlib.sha256(f"{width} {height} ".encode())
        rows = max(1, HASHED_AT_ONCE // width)
        for top in range(0, height, rows):
            pixels.update(rgb.crop((0, top, width, min(top + rows, height))).tobytes())
        facts = _ImageFacts(
            format=str(image.format),
            width=width,
            height=height,
            pixel_hash=_first_bytes(pixels.digest()),
            perceptual=_perceptual(rgb) if hash_perceptually else 0,
            rotated=orientation(image) not in (None, 1),
            animated=bool(getattr(image, "is_animated", False)),
            file_hash=0,
        )
        # last, since it moves the place in the stream
        stream.seek(0)
        content = hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").digest()
    return _ImageFacts(**{**vars(facts), "file_hash": _first_bytes(content)})


def _first_bytes(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def _perceptual(rgb: Any) -> int:
    import imagehash

    bits = imagehash.phash(rgb).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _note(scan: ImageScan, index: int, image_id: str, found: _ImageFacts | BrokenImage) -> None:
    if isinstance(found, InputError):
        scan.faults[index] = found
        return
    scan.readable[index] = True
    scan.file_hash[index] = found.file_hash
    scan.pixel_hash[index] = found.pixel_hash
    if scan.perceptual is not None:
        scan.perceptual[index] = found.perceptual
    scan.formats[found.format] += 1
    suffix = PurePosixPath(image_id).suffix.lower()
    if suffix in _ALL_SUFFIXES and suffix not in SUFFIXES.get(found.format, set()):
        scan.wrong_suffix[index] = found.format
    if found.animated:
        scan.animated.append(index)
    if found.rotated:
        scan.rotated.append(index)
    shortest = min(found.width, found.height)
    scan.smallest = min(scan.smallest, shortest) if scan.smallest else shortest
    scan.largest = max(scan.largest, found.width, found.height)
