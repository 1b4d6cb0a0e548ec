"""The one place that opens images, which may lie anywhere a data set's table says and nowhere else.

An image is a file, or lies inside one: in a tar shard (`00000.tar/000000012.jpg`), or in a row of a Parquet or Arrow
file (`part-0.parquet/17`). An image that an attack has made may lie in the cache (`added.py`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_special
from mmpoison.errors import InputError
from mmpoison.images.added import cached_image
from mmpoison.images.containers import check_bytes, read_inside, split_container

IntArray = npt.NDArray[np.int32]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""Endings of files that are images, of the formats that are decoded."""

_SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"P6", ".ppm"),
    (b"P5", ".ppm"),
)


class NameClash(InputError):
    """Two images of a set would become one file; neither is ever put in the other's place."""


class ImageList(Protocol):
    """The images of a data set: their ids, and the folder that these start from."""

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """Relative paths, shape `(I,)`."""

    @property
    def root(self) -> Path:
        """The folder."""

    def __len__(self) -> int: ...


class ImageSet(Protocol):
    """A data set as far as its images are concerned, such as a `PairDataset`."""

    @property
    def images(self) -> ImageList:
        """Its images."""

    @property
    def root(self) -> Path:
        """The folder that their ids start from."""


def image_path(root: Path, image_id: str) -> Path:
    """Return the path of an image; for a container, the name inside it follows.

    Raises:
        InputError: If it leads out of the root, or is a named pipe, a socket or a device.
    """
    if (cached := cached_image(root, image_id)) is not None:
        return cached
    path = root / image_id
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (RuntimeError, ValueError, OSError):
        raise InputError(f"{path}: not a path of a file (a link to itself?)") from None
    if not inside:
        raise InputError(f"{path}: leads out of {root}, it is refused")
    refuse_special(path)
    return path


def open_image(root: Path, image_id: str) -> BinaryIO:
    """Open one image of a data set for reading its bytes; safe between threads.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path of a file, or of a container and on inside it; or id of an image in the cache.

    Raises:
        InputError: If there is no such image, it lies outside the root, or has over 200 MiB.
    """
    path = image_path(root, image_id)
    inner = split_container(root, image_id)
    if inner is not None:
        return io.BytesIO(read_inside(root / inner[0], inner[1]))
    try:
        stream = path.open("rb")
        check_bytes(path, os.fstat(stream.fileno()).st_size)
        return stream
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def image_bytes(root: Path, image_id: str) -> bytes:
    """Read all bytes of one image; arguments and errors as of `open_image`."""
    with open_image(root, image_id) as stream:
        return stream.read()


def image_stat(root: Path, image_id: str) -> tuple[str, int, int]:
    """Return what identifies a version of an image: real path, size in bytes, modification time in nanoseconds.

    Size and time are those of the file; of an image inside a container they are the container's.

    Raises:
        InputError: If there is no such file, or it lies outside the root.
    """
    path = image_path(root, image_id)
    inner = split_container(root, image_id)
    file = path if inner is None else root / inner[0]
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image") from None
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def image_stats(root: Path, image_ids: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """`image_stat` of many images, 20 times as fast: a folder's real path is looked up once.

    Raises:
        InputError: As `image_stat`.
    """
    base = root.resolve()
    folders: dict[str, str | None] = {}
    for image_id in image_ids:
        folder, _, name = image_id.rpartition("/")
        if folder not in folders:
            real = (root / folder).resolve()
            folders[folder] = str(real) if real.is_relative_to(base) else None
        where = folders[folder]
        if where is not None and name not in ("", ".", ".."):
            path = f"{where}{os.sep}{name}"
            with suppress(OSError, ValueError):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode):
                    yield path, status.st_size, status.st_mtime_ns
                    continue
        yield image_stat(root, image_id)


def image_extension(data: bytes) -> str | None:
    """Return the file extension of an image by its first bytes, or None for an unknown format.

    >>> image_extension(b"GIF89a..."), image_extension(b"<html>")
    ('.gif', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((ending for start, ending in _SIGNATURES if data.startswith(start)), None)


def file_name(container: str, name: str, data: bytes) -> str:
    """Return a relative path for an image from a container: plain names, the extension by content.

    Different images get different names, also where odd characters have to go: such a name gets a digest.

    Args:
        container: Relative path of the container.
        name: Name of the image inside it.
        data: Its bytes.

    >>> file_name("00000.tar", "000000012.jpg", b"\\xff\\xd8\\xff")
    '00000/000000012.jpg'
    >>> file_name("train/part-0.parquet", "17", b"GIF89a")
    'train/part-0/17.gif'
    """
    plain = PurePosixPath(container).with_suffix("") / name
    # a row has no ending, a member of a tar file has one
    given = plain.suffix if plain.suffix.lower() in EXTENSIONS else ""
    stem = plain.name[: len(plain.name) - len(given)]
    ending = image_extension(data) or given.lower() or ".bin"
    if given and (given == ending or {given, ending} <= {".jpg", ".jpeg"}):
        ending = given
    parts = [_plain(part) for part in (*plain.parts[:-1], stem)]
    changed = (*plain.parts[:-1], stem) != tuple(parts) or (given and given != ending)
    digest = (
        f"-{hashlib.sha256(f'{container}/{name}'.encode()).hexdigest()[:12]}" if changed else ""
    )
    return "/".join(parts) + digest + ending


def _plain(part: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", part).lstrip(".")[:80] or "_"
