"""`parquet-lists`: Parquet files with two list columns, the embeddings of captions and images.

Row groups are combined into shards of at least `ROWS_A_SHARD` rows. A smaller file is one shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpoison.defenses.scan.read.files import Array, DataFile, Listing, ShardError, each
from mmpoison.defenses.scan.read.formats.npy import USUAL, side_of
from mmpoison.defenses.scan.read.shards import (
    EmbeddedFormat,
    EmbeddedSource,
    Shard,
    make_source,
    register,
)
from mmpoison.defenses.scan.read.tables import (
    ParquetRows,
    choose_columns,
    find_column,
)
from mmpoison.errors import InputError

NAME = "parquet-lists"
ROWS_A_SHARD = 1 << 16
FOLDERS = ("", "data")
"""Sub-folders to search for files; Hugging Face's hub uses `data`."""


@dataclass(frozen=True, kw_only=True)
class ListShard(Shard):
    """Rows of a Parquet file that contains the embeddings.

    Attributes:
        own: The rows, without the embedding columns.
        text: Column of the captions' embeddings.
        image: Column of the images' embeddings.
    """

    own: ParquetRows
    text: str
    image: str

    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings, see `Shard.vectors`; missing embeddings are NaN."""
        pieces = list(self.own.batches([self.text, self.image]))
        found = []
        for column in (self.text, self.image):
            size = self.dimension or _width(pieces, column)
            if self.rows and not size:
                raise ShardError(
                    f"{self.own.file}: column {column!r:.80} has no numbers: every list is empty or missing"
                )
            blocks, row = [], self.start
            for batch in pieces:
                where = f"{self.own.file} column {column!r:.80}"
                blocks.append(_matrix(batch.column(column), size, where, row))
                row += batch.num_rows
            found.append(np.concatenate(blocks) if blocks else np.empty((0, size), np.float32))
        return found[0], found[1]


def open_parquet_lists(
    place: Listing,
    *,
    text: str | None = None,
    image: str | None = None,
    id: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open Parquet files that contain the embeddings.

    Args:
        place: A file, or a folder of `*.parquet` (or with them in its folder `data`).
        text: Column of the captions' embeddings; by default the only list of numbers whose name says text or caption.
        image: Column of the images' embeddings; by default the one whose name says image or img.
        id: Column of the ids; by default the first usual name, else the number of the row in the file is the id.
        caption: Column of captions; by default the first usual name.
        image_id: Column that says which image, where several captions share one; `image_id` by default.
        score: Column of a similarity that was computed by the same model.

    Raises:
        InputError: If there is no such file or column.
    """
    files = _files(place)
    if not files:
        raise InputError(f"{place.given}: has no *.parquet")
    plain = [ParquetRows(file) for file in files]
    sides = {
        side: given if given is not None else _usual(plain, side, place.given)
        for side, given in (("text", text), ("image", image))
    }
    hidden = (sides["text"], sides["image"])
    for side, column in sides.items():
        find_column(plain, side, column)
    owns = [ParquetRows(file, hidden=hidden) for file in files]
    columns = choose_columns(owns, USUAL, id=id, caption=caption, image_id=image_id, score=score)
    dimension = _dimension(plain, sides["text"])

    def shards_of(file: DataFile) -> list[ListShard]:
        known: dict[str, Any] = {"columns": columns, **sides}
        try:
            spans = list(_spans(file))
        except ShardError:
            return [ListShard(name=file.stem, own=ParquetRows(file, hidden=hidden), **known)]
        return [
            ListShard(
                name=file.stem if len(spans) == 1 else f"{file.stem}-{number:05d}",
                own=ParquetRows(file, start, stop, hidden),
                rows=stop - start,
                dimension=dimension,
                start=start,
                **known,
            )
            for number, (start, stop) in enumerate(spans)
        ]

    shards = [shard for part in each(shards_of, files, remote=place.remote) for shard in part]
    return make_source(NAME, place.given, shards, columns.id_kind)


def _files(place: Listing) -> list[DataFile]:
    if place.is_file:
        return [place.place] if place.place.name.endswith(".parquet") else []
    found = (place.files(below, ".parquet") for below in FOLDERS)
    return next((list(files.values()) for files in found if files), [])


def _spans(file: DataFile) -> Iterator[tuple[int, int]]:
    """Yield start and end row of each shard of a file, made of whole row groups."""
    with ParquetRows(file).opened() as opened:
        groups = [
            opened.metadata.row_group(n).num_rows for n in range(opened.metadata.num_row_groups)
        ]
    start = stop = 0
    for rows in groups:
        stop += rows
        if stop - start >= ROWS_A_SHARD:
            yield start, stop
            start = stop
    if stop > start or not stop:
        yield start, stop


def _dimension(files: Sequence[ParquetRows], column: str) -> int:
    """Return the list length: from the type for fixed-size lists, otherwise from the first list."""
    import pyarrow.types as types

    for own in files:
        try:
            schema = own.schema()
            if column in schema.names and types.is_fixed_size_list(schema.field(column).type):
                return int(schema.field(column).type.list_size)
            for batch in own.batches([column]):
                if is_list_of_numbers(batch.column(0).type) and (size := _width([batch], column)):
                    return size
        except ShardError:
            continue
    return 0


def _width(batches: Sequence[Any], column: str) -> int:
    for batch in batches:
        for value in batch.column(column):
            if value.is_valid and len(value):
                return len(value)
    return 0


def _matrix(array: Any, size: int, where: str, first: int) -> Array:
    """Convert an array of lists to a matrix. float16 stays, other numbers become float32, missing lists become NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_list_of_numbers(array.type):
        raise ShardError(f"{where} holds {array.type}: expected lists of numbers")
    present = np.asarray(array.is_valid().to_numpy(zero_copy_only=False))
    kept = array.drop_null() if not present.all() else array
    lengths = np.asarray(pc.list_value_length(kept).to_numpy(zero_copy_only=False))
    if len(wrong := np.flatnonzero(lengths != size)):
        row = first + int(np.flatnonzero(present)[wrong[0]])
        raise ShardError(
            f"{where} row {row}: has {int(lengths[wrong[0]])} numbers, but the others have {size}"
        )
    flat = kept.flatten()
    half = array.type.value_type == pa.float16()
    if flat.null_count or not half:
        # missing numbers become NaN
        flat = flat.cast(pa.float32(), safe=False)
    values = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, size)
    values = values.astype(np.float16 if half else np.float32, copy=False)
    if present.all():
        return values
    whole = np.full((len(array), size), np.nan, values.dtype)
    whole[present] = values
    return whole


def is_list_of_numbers(kind: Any) -> bool:
    """Check whether an Arrow type is a list of floating-point numbers."""
    import pyarrow.types as types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(lists and types.is_floating(kind.value_type))


def _number_lists(own: ParquetRows) -> list[str]:
    return [field.name for field in own.schema() if is_list_of_numbers(field.type)]


def _usual(files: Sequence[ParquetRows], side: str, given: str) -> str:
    for own in files:
        try:
            names = _number_lists(own)
        except ShardError:
            continue
        found = side_of(names, side)
        if len(found) == 1:
            return found[0]
        several = ", ".join(found or names) or "no column of lists of numbers"
        raise InputError(
            f"{own.file}: which column holds the embeddings of {side}s ({several:.200})? Name it with the option "
            f"{side}=COLUMN"
        )
    raise InputError(f"{given}: no Parquet file can be read")


def _recognise(place: Listing) -> str | None:
    files = _files(place)
    # in a folder with arrays, the Parquet files are their tables
    if not place.is_file and (place.files(ending=".npz") or place.files(ending=".npy")):
        return None
    for file in files:
        try:
            return file.name if len(_number_lists(ParquetRows(file))) > 1 else None
        except ShardError:
            continue
    return None


register(
    EmbeddedFormat(
        name=NAME,
        summary="Parquet files with two columns of lists of numbers",
        looks_for="*.parquet with two columns of lists of numbers",
        recognise=_recognise,
        open=open_parquet_lists,
    )
)
