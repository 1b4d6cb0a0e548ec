"""Creates thumbnails for people."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageOps

from mmpoison.errors import InputError
from mmpoison.images.decode import picture


def thumbnail(root: Path, image_id: str, side: int) -> bytes:
    """Create a JPEG of a whole image, upright, with a longest side of at most `side` pixels.

    It is for people: unlike a model's input it is not cropped, and EXIF orientation is applied. Only pixels of the file
    remain.

    Args:
        root: Folder the id is relative to. The file must be inside it after resolving symbolic links.
        image_id: Relative path.
        side: Pixels.

    Raises:
        BrokenImage: If the file is missing, outside the root, too large, truncated or not an image.
    """
    with picture(root, image_id) as image:
        image.draft("RGB", (side, side))  # decode a large JPEG at an eighth of its size
        transparent = image.mode in ("RGBA", "LA", "PA", "P")
        kind = "RGBA" if transparent else "RGB"
        small = image if image.mode == kind else image.convert(kind)
        # shrink first, because all further steps copy
        small.thumbnail((side, side))
        small = _upright(small)
        if transparent:
            # transparency is white, as on a page
            white = Image.new("RGBA", small.size, "white")
            small = Image.alpha_composite(white, small).convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    try:
        image.getexif()
    except Exception:  # untrusted metadata, on which no pixel depends, may break in any way
        return image
    # Pillow would write this again, and may fail
    image.info = {}
    return ImageOps.exif_transpose(image)


# -- Images with captions as HTML, for notebooks.


SHOWN = 8
"""Images in a row."""

SIDE = 112
"""Longer side of an image, in pixels."""

LONGEST_CAPTION = 200
"""Maximum number of characters shown of a caption."""

_CARD = (
    '<figure style="display:inline-block;width:{side}px;margin:4px;vertical-align:top">'
    '<img src="{address}" alt="{image}" title="{image}" style="max-width:100%">'
    '<figcaption style="font-size:smaller;overflow-wrap:anywhere">{mark}{caption}</figcaption></figure>'
)


@dataclass(repr=False)
class PictureRow:
    """Images with captions, shown in notebooks; elsewhere only the title is shown.

    Attributes:
        title: Title above the images.
        html: The HTML for notebooks.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return self.title

    def _repr_html_(self) -> str:
        return self.html


def picture_card(address: str, image_id: str, caption: str, mark: str = "") -> str:
    """Create HTML for an image and its caption.

    Args:
        address: The image as a `data:` address, which is not escaped.
        image_id: Shown as a tooltip.
        caption: Cut at `LONGEST_CAPTION` characters.
        mark: Shown in bold before the caption.

    Returns:
        HTML in which id, caption and mark are escaped.
    """
    text = caption if len(caption) <= LONGEST_CAPTION else f"{caption[:LONGEST_CAPTION]}..."
    return _CARD.format(
        side=SIDE,
        address=address,
        image=escape(image_id),
        mark=f"<b>{escape(mark)}</b> " if mark else "",
        caption=escape(text),
    )


def picture_row(
    title: str, root: Path, pairs: Iterable[tuple[str, str, bool]], most: int = SHOWN
) -> str:
    """Create HTML for a title and the first few readable images, which are embedded.

    Args:
        title: Title above the images.
        root: Folder the ids are relative to.
        pairs: Image id, caption and whether the pair is poisoned. Broken images are skipped.
        most: Maximum number of images to show.

    Returns:
        HTML in which everything from the data is escaped.
    """
    cards: list[str] = []
    for image_id, caption, poisoned in pairs:
        if len(cards) == most:
            break
        try:
            data = thumbnail(root, image_id, SIDE)
        except InputError:
            continue
        address = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        cards.append(picture_card(address, image_id, caption, "poisoned:" if poisoned else ""))
    return f"<div><p>{escape(title)}</p>{''.join(cards)}</div>"
