"""Bounds the unpacked size of a Parquet file by its footer: a 40 kB file can repeat one list four million times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from mmpoison.base.untrusted import most_unpacked
from mmpoison.errors import InputError

MAX_GROUP_BYTES = 4 << 30
"""Largest row group. Row groups are read whole, so they must fit into memory."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_PLACE = 4
"""Bytes per text or byte string, which are read as an index into a dictionary (`text_leaves`)."""


def refuse_packed(
    metadata: Any,
    size: int,
    where: object,
    *,
    columns: Sequence[str] | None = None,
    groups: Iterable[int] | None = None,
) -> None:
    """Before decoding, refuse row groups that need much more memory than the file has bytes on disk.

    Args:
        metadata: Footer of the file, a `pyarrow.parquet.FileMetaData`.
        size: Bytes of the file.
        where: Its name, for messages.
        columns: Those that are read; all by default.
        groups: The row groups that are in memory at the same time; all by default.

    Raises:
        InputError: If a row group exceeds `MAX_GROUP_BYTES`, or the data to read unpack to more than `most_unpacked` of
            the file size.
    """
    read = [
        (number, _WIDTHS.get(leaf.physical_type, max(_PLACE, leaf.length)))
        for number, leaf in _leaves(metadata.schema, columns)
    ]
    total = 0
    for group in range(metadata.num_row_groups) if groups is None else groups:
        rows = metadata.row_group(group)
        if rows.total_byte_size > MAX_GROUP_BYTES:
            raise InputError(
                f"{where}: row group {group} holds {rows.total_byte_size / 2**30:.1f} GiB, too much to read at once: "
                "rewrite it with smaller row groups"
            )
        total += sum(rows.column(number).num_values * width for number, width in read)
        if total > most_unpacked(size):
            raise InputError(
                f"{where}: {size:,} bytes unpack to {total / 2**30:.1f} GiB or more (a decompression bomb?): rewrite "
                "it without the columns that repeat one value, or with smaller row groups"
            )


def text_leaves(file: Any, columns: Sequence[str]) -> list[str]:
    """List the paths of the leaves of Parquet columns that hold bytes or text.

    They are read as dictionaries, so a repeated value is in memory once. Expanded, a 5 kB file with one long value
    repeated a thousand times could take 64 GB.

    Args:
        file: A `pyarrow.parquet.ParquetFile`.
        columns: Names of columns.
    """
    leaves = _leaves(file.schema, columns)
    return [leaf.path for _, leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _leaves(schema: Any, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    """Yield index and description of each leaf, for all or some columns."""
    wanted = None if columns is None else set(columns)
    for number in range(len(schema)):
        leaf = schema.column(number)
        # a leaf's path begins with that of its column
        if wanted is None or not wanted.isdisjoint(
            accumulate(leaf.path.split("."), "{}.{}".format)
        ):
            yield number, leaf
