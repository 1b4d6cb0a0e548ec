"""Small pictures out of `rank_lists.json`, which is a file from outside."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.images.decode import BrokenImage, read_small_jpeg

PREFIX = "data:image/jpeg;base64,"
LARGEST = 200_000
SIDE = 512


def pixels(thumbnails: Mapping[str, Any], image: Any) -> npt.NDArray[np.uint8] | None:
    """Pixels of a thumbnail, shape (H, W, 3); None where it is missing, broken or too large to be one."""
    address = thumbnails.get(str(image))
    if not isinstance(address, str) or not address.startswith(PREFIX) or len(address) > LARGEST:
        return None
    try:
        data = base64.b64decode(address.removeprefix(PREFIX), validate=True)
        return read_small_jpeg(data, SIDE)
    except (BrokenImage, binascii.Error):
        return None
