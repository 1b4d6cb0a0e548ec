"""`npy-pair`: two `.npy` files, of captions and of images, and one Parquet file with ids and captions if there is one.

Row n of each file is the same pair. Shards are pieces of `ROWS_A_SHARD` rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmpoison.embedded.array_shards import ArrayShard, sizes_of
from mmpoison.embedded.arrays import ArrayFile
from mmpoison.embedded.catalogue import EmbeddedFormat, register
from mmpoison.embedded.files import DataFile, Listing, list_place
from mmpoison.embedded.own_columns import ColumnChoice, OwnColumns, find_column
from mmpoison.embedded.source import EmbeddedSource, make_source
from mmpoison.errors import InputError

NAME = "npy-pair"
ROWS_A_SHARD = 1 << 18
"""512 MB of 512 float16 numbers on both sides, and a list of ids that takes some 20 MB."""

USUAL_IDS = ("uid", "key", "__key__", "id", "image_path")
USUAL_CAPTIONS = ("caption", "captions", "text", "texts", "title")
SIDES = {
    "text": r"(?<![a-z])(text|texts|txt|caption|captions)(?![a-z])",
    "image": r"(?<![a-z])(image|images|img)(?![a-z])",
}
"""The word in the name of a file or column by which its side is recognised."""


def open_npy_pair(
    place: Listing,
    *,
    text: str | None = None,
    image: str | None = None,
    metadata: str | None = None,
    id: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open two `.npy` files and their table.

    Args:
        place: The folder that holds them.
        text: File of the captions' embeddings, in the folder or anywhere; by default the one whose name says text or
            caption.
        image: File of the images' embeddings; by default the one whose name says image or img.
        metadata: Parquet file; by default the only one in the folder.
        id: Column of the ids; by default the first of `USUAL_IDS`, else the number of the row is the id.
        caption: Column of captions; by default the first of `USUAL_CAPTIONS`.
        image_id: Column that says which image, where several captions share one; `image_id` by default.
        score: Column of a similarity that was computed by the same model.

    Raises:
        InputError: If a file is missing or not unique, the numbers of rows differ, or a named column is missing.
    """
    arrays = {
        side: _named(place, given) if given else _usual(place, side)
        for side, given in (("text", text), ("image", image))
    }
    table = _named(place, metadata) if metadata else _only_table(place)
    known = [OwnColumns(table)] if table is not None else []
    columns = ColumnChoice(
        find_column(known, "id", id, USUAL_IDS),
        find_column(known, "caption", caption, USUAL_CAPTIONS),
        find_column(known, "image_id", image_id, ("image_id",)),
        find_column(known, "score", score) if score else None,
    )
    files = {side: ArrayFile(file) for side, file in arrays.items()}
    rows, dimension = sizes_of(files["text"])
    for other, count in (
        (str(files["image"]), files["image"].header().rows),
        *((str(own.file), own.rows()) for own in known),
    ):
        if rows and count != rows:
            raise InputError(
                f"{other}: has {count:,} rows, {files['text']} has {rows:,}: they are not of the same pairs"
            )

    def shard(start: int) -> ArrayShard:
        stop = min(start + ROWS_A_SHARD, rows)
        own = OwnColumns(table, start, stop) if table is not None else None
        return ArrayShard(
            f"{start // ROWS_A_SHARD:05d}",
            files["text"],
            files["image"],
            own,
            columns,
            start,
            stop,
            stop - start,
            dimension,
        )

    shards = [shard(start) for start in range(0, max(rows, 1), ROWS_A_SHARD)]
    return make_source(NAME, place.given, shards, columns.id_kind)


def side_of(names: Sequence[str], side: str) -> list[str]:
    """Return the names that say that they are of one side, and not of the other.

    >>> side_of(["text_emb.npy", "img_emb.npy", "context.npy"], "text")
    ['text_emb.npy']
    """
    other = "image" if side == "text" else "text"

    def says(name: str, which: str) -> bool:
        return re.search(SIDES[which], name.lower()) is not None

    return [name for name in names if says(name, side) and not says(name, other)]


def _usual(place: Listing, side: str) -> DataFile:
    files = place.files(ending=".npy")
    found = side_of(list(files), side)
    if len(found) == 1:
        return files[found[0]]
    several = ", ".join(found or files) or "none"
    problem = "several .npy files could be" if found else "no .npy file has a usual name for"
    raise InputError(
        f"{place.given}: {problem} the embeddings of {side}s ({several:.200}): name it with the option {side}=FILE"
    )


def _only_table(place: Listing) -> DataFile | None:
    tables = place.files(ending=".parquet")
    if len(tables) > 1:
        raise InputError(
            f"{place.given}: has several Parquet files ({', '.join(tables):.200}): name the one of the pairs with the "
            "option metadata=FILE"
        )
    return next(iter(tables.values()), None)


def _named(place: Listing, name: str) -> DataFile:
    """Return a file that an option names: an address, an absolute path, or one in the folder."""
    if "://" in name or Path(name).is_absolute():
        return list_place(name).place
    found = place.file(name)
    found.size()
    return found


def _recognise(place: Listing) -> str | None:
    names = list(place.files(ending=".npy"))
    text, image = side_of(names, "text"), side_of(names, "image")
    return f"{text[0]} and {image[0]}" if text and image else None


register(
    EmbeddedFormat(
        name=NAME,
        summary="two .npy files with one Parquet file of ids and captions",
        looks_for="a .npy named text or caption and one named image or img",
        recognise=_recognise,
        open=open_npy_pair,
    )
)
