"""The one place that opens images, which may lie anywhere a data set's table says and nowhere else.

An image is a file, or lies inside one: in a tar shard (`00000.tar/000000012.jpg`), or in a row of a Parquet or Arrow
file (`part-0.parquet/17`).
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.images.containers import check_bytes, read_inside, split_container
from mmpoison.images.image_bytes import image_path

__all__ = [
    "ImageList",
    "ImageSet",
    "IntArray",
    "image_path",
    "image_stat",
    "image_stats",
    "open_image",
]

IntArray = npt.NDArray[np.int32]


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


def open_image(root: Path, image_id: str) -> BinaryIO:
    """Open one image of a data set for reading its bytes; safe between threads.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path of a file, or of a container and on inside it.

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


def image_stat(root: Path, image_id: str) -> tuple[str, int, int]:
    """What tells that an image has changed: its real path, a size in bytes, a time of change in nanoseconds.

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
