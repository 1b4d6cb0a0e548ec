"""Makes small copies of images for people."""

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
    with picture(root, image_id) as image:
        image.draft("RGB", (side, side))  # a large JPEG is decoded at an eighth of its size
        transparent = image.mode in ("RGBA", "LA", "PA", "P")
        kind = "RGBA" if transparent else "RGB"
        small = image if image.mode == kind else image.convert(kind)
        # made small first, since all that follows makes copies
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
    except Exception:  # metadata from outside, which no pixel depends on, may break in any way
        return image
    # what Pillow would write again, and may be unable to
    image.info = {}
    return ImageOps.exif_transpose(image)


# -- Pictures with captions as HTML, for notebooks.


SHOWN = 8
"""Pictures in a row."""

SIDE = 112
"""Pixels of the longer side of a picture."""

LONGEST_CAPTION = 200
"""Characters of a caption that are shown."""

_CARD = (
    '<figure style="display:inline-block;width:{side}px;margin:4px;vertical-align:top">'
    '<img src="{address}" alt="{image}" title="{image}" style="max-width:100%">'
    '<figcaption style="font-size:smaller;overflow-wrap:anywhere">{mark}{caption}</figcaption></figure>'
)


@dataclass(repr=False)
class PictureRow:
    """Pictures with captions, which a notebook shows; elsewhere it is its title.

    Attributes:
        title: Shown above the pictures.
        html: What a notebook shows.
    """

    title: str
    html: str

    def __repr__(self) -> str:
        return self.title

    def _repr_html_(self) -> str:
        return self.html


def picture_card(address: str, image_id: str, caption: str, mark: str = "") -> str:
    """Make HTML of a picture and its caption.

    Args:
        address: The picture as a `data:` address, which is not escaped.
        image_id: Shown where the pointer rests.
        caption: Cut at `LONGEST_CAPTION` characters.
        mark: Shown in bold before it.

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
    """Make HTML of a title and the first few readable pictures; the pictures are inside the HTML.

    Args:
        title: Shown above the pictures.
        root: Folder that the ids are relative to.
        pairs: Image id, caption and whether the pair is poisoned; broken images are left out.
        most: So many pictures at most.

    Returns:
        HTML in which everything that comes from the data is escaped.
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
