"""Opens images, which may be anywhere a data set's table says, and nowhere else.

An image is a file, or is inside one: in a tar shard (`00000.tar/000000012.jpg`), or in a row of a Parquet or Arrow file
(`part-0.parquet/17`). Images created by an attack may be in the cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmpoison.base.files import DiskFull, atomic_file, cache_folder, refuse_special
from mmpoison.base.text import count_of
from mmpoison.errors import InputError
from mmpoison.images.containers import check_bytes, read_inside, split_container
from mmpoison.images.preparation import Pixels

# -- Stores images created by attacks, named by their pixels, so that image files of a data set never change.


FOLDER = "added"
"""First part of an added image's id, and its folder in a saved set."""

KIND = "added-images"
"""Folder of added images in the cache."""

_ADDED = re.compile(r"added/([0-9a-f]{64})\.png")


def pixels_digest(pixels: Pixels) -> str:
    """Return the sha256 of an image's size and pixels, in hexadecimal digits.

    Args:
        pixels: RGB, shape `(height, width, 3)`.
    """
    height, width, _ = pixels.shape
    return hashlib.sha256(f"RGB {width} {height}\n".encode() + pixels.tobytes()).hexdigest()


def added_digest(image_id: str) -> str | None:
    """Return the digest in the id of an added image; None for any other image.

    >>> added_digest("added/" + "0" * 64 + ".png") == "0" * 64, added_digest("sheep/1.png")
    (True, None)
    """
    found = _ADDED.fullmatch(image_id) if image_id.startswith(f"{FOLDER}/") else None
    return found and found[1]


def add_image(pixels: Pixels) -> str:
    """Write an image to the cache unless it exists, and return its id.

    Args:
        pixels: RGB, shape `(height, width, 3)`.

    Raises:
        InputError: If the cache cannot be written.
    """
    digest = pixels_digest(pixels)
    target = _path_in_cache(digest)
    if not target.is_file():
        try:
            with atomic_file(target) as temporary:
                Image.fromarray(pixels).save(temporary, "PNG")
        except DiskFull:
            raise
        except OSError as error:
            raise InputError(
                f"{target.parent}: a new image cannot be written ({error.strerror or error}): "
                "set MMPOISON_CACHE to a writable folder"
            ) from None
    return f"{FOLDER}/{digest}.png"


def cached_image(root: Path, image_id: str) -> Path | None:
    """Return the cached file of an added image that is missing from the data set's folder, or None for any other image.

    Args:
        root: Folder of the data set.
        image_id: Id of any image.
    """
    digest = added_digest(image_id)
    # treat any file of the data set as such
    if digest is None or (root / image_id).exists() or (root / image_id).is_symlink():
        return None
    cached = _path_in_cache(digest)
    return cached if cached.is_file() else None


def refuse_other_pixels(image_id: str, image: Image.Image, name: str) -> None:
    """Refuse an added image whose pixels do not match its id. Other images pass without decoding.

    Args:
        image_id: Id of any image.
        image: The picture.
        name: What to call it in the message.

    Raises:
        InputError: If the pixels differ.
    """
    digest = added_digest(image_id)
    if digest is not None and pixels_digest(rgb(image)) != digest:
        raise InputError(
            f"{name}: its pixels do not match its name: it was changed; build the poisoned set again"
        )


def rgb(image: Image.Image) -> Pixels:
    """Return the pixels of an image without transparency: RGB, shape `(height, width, 3)`."""
    return np.array(image.convert("RGB"))


def _path_in_cache(digest: str) -> Path:
    return cache_folder() / KIND / f"{digest}.png"


# -- Detects changes to files, such as a data set's images, while they are read.


MISSING = 0

States = npt.NDArray[np.int64]
Names = Sequence[str] | npt.NDArray[np.object_]


def state_of(path: str, *, linked: bool = True) -> int:
    """Return the state of one regular file as a number; 0 if it does not exist.

    Args:
        path: The file.
        linked: Whether hard links to it may be created meanwhile. A new link changes the ctime, as a write does, so the
            ctime is compared only if this is false; it reveals writes that restored the old mtime.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - many times as fast as pathlib
    except (OSError, ValueError):
        return MISSING
    if not stat.S_ISREG(found.st_mode):
        return MISSING
    # integer hashes are the same in every process
    changed = () if linked else (found.st_ctime_ns,)
    return hash((found.st_size, found.st_mtime_ns, found.st_ino, *changed)) or 1


def changed_line(paths: Sequence[Path]) -> str:
    """Describe one or more changed files in one line."""
    more = f" (and {count_of(len(paths) - 1, 'file')} more)" if len(paths) > 1 else ""
    return (
        f"{paths[0]}: changed while the data set was read{more}: stop the program that writes to the data set, and "
        "repeat the command"
    )


def file_states(root: Path, ids: Names) -> States:
    """Return the state of each image file for a later comparison, 8 bytes per image.

    `save_pairs` creates hard links to image files while they are read, in this or another process, so their ctime is
    not compared. Containers are never linked.

    Args:
        root: Folder the ids are relative to.
        ids: `n` relative paths. The state of an image inside a container is the container's.

    Returns:
        Shape `(n,)`; 0 for a missing file.
    """
    base = str(root)
    known: dict[str, int] = {}

    def of(image_id: str) -> int:
        state = state_of(f"{base}/{image_id}")
        if state == MISSING and (inner := split_container(root, image_id)) is not None:
            if inner[0] not in known:
                known[inner[0]] = state_of(f"{base}/{inner[0]}", linked=False)
            return known[inner[0]]
        if state == MISSING and (cached := cached_image(root, image_id)) is not None:
            return state_of(str(cached))
        return state

    return np.fromiter((of(str(image_id)) for image_id in ids), dtype=np.int64, count=len(ids))


def absent_images(ids: Names, states: States) -> list[str]:
    """List the ids of the images without a regular file, in order.

    Args:
        ids: See `file_states`.
        states: The result of `file_states` for them.
    """
    return [str(ids[int(index)]) for index in np.flatnonzero(states == MISSING)]


def changed_files(root: Path, ids: Names, before: States) -> list[str]:
    """List the ids of the images whose state has changed, in order."""
    differ = np.flatnonzero(file_states(root, ids) != before)
    return [str(ids[int(index)]) for index in differ]


def refuse_changed(root: Path, ids: Names, before: States) -> None:
    """Refuse images that have changed since their states were recorded.

    Args:
        root: See `file_states`.
        ids: See `file_states`.
        before: The earlier states, shape `(n,)`.

    Raises:
        InputError: If any image has changed. The message names the first and counts the others.
    """
    if changed := changed_files(root, ids, before):
        raise InputError(changed_line([root / image_id for image_id in changed]))


IntArray = npt.NDArray[np.int32]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""File extensions of images in accepted formats."""

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
    """Raised if two images of a set would become one file; neither replaces the other."""


class ImageList(Protocol):
    """The images of a data set: their ids, and their base folder."""

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """Relative paths, shape `(I,)`."""

    @property
    def root(self) -> Path:
        """The base folder of the ids."""

    def __len__(self) -> int: ...


class ImageSet(Protocol):
    """The interface of a data set's images, such as of a `PairDataset`."""

    @property
    def images(self) -> ImageList:
        """Its images."""

    @property
    def root(self) -> Path:
        """The folder that image ids are relative to."""


def image_path(root: Path, image_id: str) -> Path:
    """Return the path of an image; for a container, the name inside it follows.

    Raises:
        InputError: If it points outside the root, or is a named pipe, a socket or a device.
    """
    if (cached := cached_image(root, image_id)) is not None:
        return cached
    path = root / image_id
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (RuntimeError, ValueError, OSError):
        raise InputError(f"{path}: not a file path (a link to itself?)") from None
    if not inside:
        raise InputError(f"{path}: points outside {root}, so it is refused")
    refuse_special(path)
    return path


def open_image(root: Path, image_id: str) -> BinaryIO:
    """Open one image of a data set for reading bytes. Thread-safe.

    Args:
        root: Folder the id is relative to. The file must be inside it after resolving symbolic links.
        image_id: Relative path of a file, or of a container and the name inside it; or id of a cached image.

    Raises:
        InputError: If the image is missing, outside the root, or larger than 200 MiB.
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
    """Read all bytes of one image, with arguments and errors of `open_image`."""
    with open_image(root, image_id) as stream:
        return stream.read()


def image_stat(root: Path, image_id: str) -> tuple[str, int, int]:
    """Return what identifies a version of an image: real path, size in bytes, modification time in nanoseconds.

    For an image inside a container, size and time are the container's. The ctime is left out, because every hard link
    to the image changes it, and cached embeddings would be recomputed.

    Raises:
        InputError: If the file is missing or outside the root.
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
    """Return `image_stat` of many images, 20 times faster because a folder's real path is looked up only once.

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
    """Return a relative path for an image from a container, with plain names and the extension by content.

    Different images get different names: if characters must be removed, the name gets a digest.

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
    # rows have no extension, members of a tar file have one
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
