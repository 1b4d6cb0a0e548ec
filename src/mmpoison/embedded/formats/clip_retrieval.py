"""`clip-retrieval`: the folder that `clip-retrieval inference` writes.

`img_emb/img_emb_{i}.npy`, `text_emb/text_emb_{i}.npy` and `metadata/metadata_{i}.parquet` are a partition, and a shard
here. Partitions are in the order of their numbers, whether padded with zeros or not. The rows of the three files belong
together; they do not have the order of a tar, for broken samples are skipped.
"""

from __future__ import annotations

import re

from mmpoison.embedded.array_shards import ArrayShard, sizes_of
from mmpoison.embedded.arrays import ArrayFile
from mmpoison.embedded.catalogue import EmbeddedFormat, register
from mmpoison.embedded.files import DataFile, Listing, each
from mmpoison.embedded.own_columns import ColumnChoice, OwnColumns, find_column
from mmpoison.embedded.source import EmbeddedSource, make_source
from mmpoison.errors import InputError

NAME = "clip-retrieval"


def open_clip_retrieval(
    place: Listing,
    *,
    id: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open a folder of clip-retrieval.

    Args:
        place: The folder.
        id: Column of the ids; `image_path` by default, the key of the pair in its tar.
        caption: Column of captions; `caption` by default, where there is one.
        image_id: Column that says which image, where several captions share one.
        score: Column of a similarity that was computed by the same model.

    Raises:
        InputError: If there is no text or no image, two files have one number, or a named column is missing.
    """
    images = _numbered(place, "img_emb", "npy")
    texts = _numbered(place, "text_emb", "npy")
    tables = _numbered(place, "metadata", "parquet")
    for folder, found in (("img_emb", images), ("text_emb", texts)):
        if not found:
            raise InputError(
                f"{place.given}: has no {folder}/{folder}_*.npy: embeddings of captions and of images are needed"
            )
    # `clip-retrieval inference --enable_metadata False` writes none
    owns = {number: OwnColumns(file) for number, (_, file) in tables.items()}
    known = list(owns.values())
    columns = ColumnChoice(
        find_column(known, "id", id or ("image_path" if known else None)),
        find_column(known, "caption", caption, ("caption",)),
        find_column(known, "image_id", image_id) if image_id else None,
        find_column(known, "score", score) if score else None,
    )

    def shard(number: int) -> ArrayShard:
        digits = next(found[number][0] for found in (images, texts, tables) if number in found)

        def file(found: dict[int, tuple[str, DataFile]], folder: str, ending: str) -> DataFile:
            if number in found:
                return found[number][1]
            return place.file(f"{folder}_{digits}.{ending}", folder)

        text = ArrayFile(file(texts, "text_emb", "npy"))
        rows, dimension = sizes_of(text)
        own = OwnColumns(file(tables, "metadata", "parquet")) if owns else None
        image = ArrayFile(file(images, "img_emb", "npy"))
        return ArrayShard(digits, text, image, own, columns, 0, None, rows, dimension)

    numbers = sorted({*images, *texts, *tables})
    shards = each(shard, numbers, remote=place.remote)
    return make_source(NAME, place.given, shards, columns.id_kind)


def _numbered(place: Listing, folder: str, ending: str) -> dict[int, tuple[str, DataFile]]:
    """Return the files of one kind by number, with the digits of the name."""
    found: dict[int, tuple[str, DataFile]] = {}
    for name, file in place.files(folder).items():
        if match := re.fullmatch(rf"{folder}_([0-9]{{1,12}})\.{ending}", name):
            number = int(match[1])
            if number in found:
                raise InputError(
                    f"{file}: {found[number][1].name} has the same number: two runs are mixed here, separate them"
                )
            found[number] = (match[1], file)
    return found


def _recognise(place: Listing) -> str | None:
    for folder in ("img_emb", "text_emb"):
        if found := _numbered(place, folder, "npy"):
            return f"{folder}/{found[min(found)][1].name}"
    return None


register(
    EmbeddedFormat(
        name=NAME,
        summary="the folder that `clip-retrieval inference` writes",
        looks_for="img_emb/img_emb_*.npy and text_emb/text_emb_*.npy",
        recognise=_recognise,
        open=open_clip_retrieval,
    )
)
