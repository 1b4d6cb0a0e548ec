"""Where the bytes of an image lie, whatever holds them; nothing here knows what a picture is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from mmpoison.base.files import refuse_special
from mmpoison.errors import InputError
from mmpoison.images.containers import check_bytes, read_inside, split_container

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


def image_path(root: Path, image_id: str) -> Path:
    """The path of an image; inside a container file it goes on with the name in it.

    Raises:
        InputError: If it leads out of the root, or is a named pipe, a socket or a device.
    """
    path = root / image_id
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (RuntimeError, ValueError, OSError):
        raise InputError(f"{path}: not a path of a file (a link to itself?)") from None
    if not inside:
        raise InputError(f"{path}: leads out of {root}, it is refused")
    refuse_special(path)
    return path


def read_image_bytes(root: Path, image_id: str) -> bytes:
    """All bytes of one image.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path of a file, or of a container and on inside it.

    Raises:
        InputError: If there is no such image, it lies outside the root, or has over 200 MiB.
    """
    path = image_path(root, image_id)
    inner = split_container(root, image_id)
    if inner is not None:
        return read_inside(root / inner[0], inner[1])
    try:
        check_bytes(path, path.stat().st_size)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such image") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def image_extension(data: bytes) -> str | None:
    """The ending of an image file by its first bytes, or None where they are of no known format.

    >>> image_extension(b"GIF89a..."), image_extension(b"<html>")
    ('.gif', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((ending for start, ending in _SIGNATURES if data.startswith(start)), None)


def file_name(container: str, name: str, data: bytes) -> str:
    """A relative path under which an image from a container can be written: plain names, the ending by content.

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
