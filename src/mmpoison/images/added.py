"""Stores images that attacks make, named by their pixels, so that no image file of a data set is ever changed.

The id of such an image is `added/DIGEST.png`, where `DIGEST` is the sha256 of its pixels. It is looked up in the folder
of the data set first, as any image is, and then in the cache. A saved set has it as an ordinary file. Whoever reads it
compares its pixels with its id.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import DiskFull, atomic_file
from mmpoison.errors import InputError
from mmpoison.images.preparation import Pixels

FOLDER = "added"
"""First part of the id of an added image, and its folder in a saved set."""

KIND = "added-images"
"""Its folder in the cache."""

_ADDED = re.compile(r"added/([0-9a-f]{64})\.png")


def pixels_digest(pixels: Pixels) -> str:
    """Return the sha256 of an image's size and pixels, in hexadecimal digits.

    Args:
        pixels: RGB, shape `(height, width, 3)`.
    """
    height, width, _ = pixels.shape
    return hashlib.sha256(f"RGB {width} {height}\n".encode() + pixels.tobytes()).hexdigest()


def added_id(digest: str) -> str:
    """Return the id of the added image with these pixels.

    Args:
        digest: Of `pixels_digest`.
    """
    return f"{FOLDER}/{digest}.png"


def added_digest(image_id: str) -> str | None:
    """Return the digest in the id of an added image; None for any other image.

    >>> added_digest("added/" + "0" * 64 + ".png") == "0" * 64, added_digest("sheep/1.png")
    (True, None)
    """
    found = _ADDED.fullmatch(image_id) if image_id.startswith(f"{FOLDER}/") else None
    return found and found[1]


def add_image(pixels: Pixels) -> str:
    """Write an image to the cache, unless it is there, and return its id.

    Args:
        pixels: RGB, shape `(height, width, 3)`.

    Raises:
        InputError: If the cache cannot be written.
    """
    digest = pixels_digest(pixels)
    image_id = added_id(digest)
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
                "set MMPOISON_CACHE to a folder that can"
            ) from None
    return image_id


def cached_image(root: Path, image_id: str) -> Path | None:
    """Return the file in the cache of an added image that the data set's own folder lacks; None for any other.

    Args:
        root: Folder of the data set.
        image_id: Id of any image.
    """
    digest = added_digest(image_id)
    # a file of the data set, whatever it is, is judged as one
    if digest is None or (root / image_id).exists() or (root / image_id).is_symlink():
        return None
    cached = _path_in_cache(digest)
    return cached if cached.is_file() else None


def refuse_other_pixels(image_id: str, image: Image.Image, name: str) -> None:
    """Refuse an added image whose pixels are not those of its id; any other image is let through undecoded.

    Args:
        image_id: Id of any image.
        image: The picture.
        name: What to call it in the message.

    Raises:
        InputError: If they differ.
    """
    digest = added_digest(image_id)
    if digest is not None and pixels_digest(rgb(image)) != digest:
        raise InputError(
            f"{name}: its pixels are not those that its name says: it was changed, make the poisoned set again"
        )


def rgb(image: Image.Image) -> Pixels:
    """Return the pixels of a picture, transparency dropped: RGB, shape `(height, width, 3)`."""
    return np.array(image.convert("RGB"))


def _path_in_cache(digest: str) -> Path:
    return cache_folder() / KIND / f"{digest}.png"
