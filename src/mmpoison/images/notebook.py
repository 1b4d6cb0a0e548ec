"""Pictures with captions as HTML, for notebooks."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.images.thumbnails import thumbnail

SHOWN = 8
"""Pictures in a row."""

SIDE = 112
"""Pixels of the longer side of a picture."""

LONGEST_CAPTION = 200
"""Characters of a caption that are shown."""

_CARD = (
    '<figure style="display:inline-block;width:{side}px;margin:4px;vertical-align:top">'
    '<img src="data:image/jpeg;base64,{data}" alt="{image}" title="{image}">'
    '<figcaption style="font-size:smaller;overflow-wrap:anywhere">{mark}{caption}</figcaption></figure>'
)


class PictureRow:
    """Pictures with captions, which a notebook shows; elsewhere it is its title.

    Args:
        title: Shown above the pictures.
        html: What a notebook shows.
    """

    def __init__(self, title: str, html: str) -> None:
        self.title = title
        self.html = html

    def __repr__(self) -> str:
        return self.title

    def _repr_html_(self) -> str:
        return self.html


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
        text = caption if len(caption) <= LONGEST_CAPTION else f"{caption[:LONGEST_CAPTION]}..."
        cards.append(
            _CARD.format(
                side=SIDE,
                data=base64.b64encode(data).decode(),
                image=escape(image_id),
                mark="<b>poisoned:</b> " if poisoned else "",
                caption=escape(text),
            )
        )
    return f"<div><p>{escape(title)}</p>{''.join(cards)}</div>"
