"""A small copy of an image for people to look at."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from mmpoison.images.decode import picture


def thumbnail(root: Path, image_id: str, side: int) -> bytes:
    """A JPEG of a whole image, upright, its longest side at most `side` pixels.

    It is for people: unlike what a model sees it is not cropped, and an orientation in the EXIF data is applied.
    Nothing but pixels is left of the file.

    Args:
        root: Folder the id is relative to; the file must lie in it, symbolic links resolved.
        image_id: Relative path.
        side: Pixels.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image.
    """
    with picture(root, image_id) as (_, image):
        image.draft("RGB", (side, side))  # a large JPEG is decoded at an eighth of its size
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA", "P"):
            # transparency is white, as on a page
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        small = upright.convert("RGB")
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
