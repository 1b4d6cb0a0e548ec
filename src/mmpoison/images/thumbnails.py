"""Makes small copies of images for people."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mmpoison.images.decode import orientation, picture

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def thumbnail(root: Path, image_id: str, side: int) -> bytes:
    """Make a JPEG of a whole image, upright, with a longest side of at most `side` pixels.

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
        transparent = image.mode in ("RGBA", "LA", "PA", "P")
        kind = "RGBA" if transparent else "RGB"
        small = image if image.mode == kind else image.convert(kind)
        # made small first, since all that follows makes copies
        small.thumbnail((side, side))
        turned = _TURNS.get(orientation(image) or 1)
        small = small if turned is None else small.transpose(turned)
        if transparent:
            # transparency is white, as on a page
            white = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(white, small).convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
