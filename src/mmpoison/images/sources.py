"""The one place that opens image files, which may lie anywhere a data set's table says and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from mmpoison.errors import InputError


def open_image(root: Path, image_id: str) -> BinaryIO:
    """Open one image of a data set for reading its bytes.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.

    Raises:
        InputError: If there is no such file, or it lies outside the root.
    """
    path = image_path(root, image_id)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def image_stat(root: Path, image_id: str) -> tuple[str, int, int]:
    """What tells that an image has changed: its real path, its size in bytes, its time of change in nanoseconds.

    Raises:
        InputError: If there is no such file, or it lies outside the root.
    """
    path = image_path(root, image_id)
    try:
        stat = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def image_path(root: Path, image_id: str) -> Path:
    """The file of an image.

    Raises:
        InputError: If it leads out of the root.
    """
    path = root / image_id
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (RuntimeError, ValueError, OSError):
        raise InputError(f"{path}: not a path of a file (a link to itself?)") from None
    if not inside:
        raise InputError(f"{path}: leads out of {root}, it is refused")
    return path
