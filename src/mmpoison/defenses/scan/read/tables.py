"""The Parquet table of embeddings: ids, captions, and all other columns of its owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmpoison.base.text import one_line
from mmpoison.base.untrusted import refuse_packed, text_leaves
from mmpoison.datasets.formats.arrow_rows import (
    TEXT_PER_BYTE,
    is_text_type,
    text_bytes,
    values_of,
)
from mmpoison.defenses.scan.read.files import Array, DataFile, IdKind, IntArray, ShardError
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_errors, short, usual_column

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("pair", "image", "caption")
"""Columns of pairs embedded by mmpoison, also written to `scores.parquet` for `mmpoison review`."""

PLACE = ("shard", "row", "caption_place")
"""Columns with the position of each of those pairs in its source (`SourceRows`)."""

ADDRESSES = ("url", "image_url", "URL")
"""The user's own columns that may contain an image's web address."""

KINDS = ("label", "category", "class")
"""The user's own columns that may contain an image's class."""

ROWS_AT_ONCE = 16_384
MOST_TEXT = 256 << 20
"""Limit on unpacked text in a shard's column and in the columns of its dropped pairs; larger for large files."""


@dataclass(frozen=True)
class ColumnChoice:
    """The columns with a known meaning; None if there is none.

    Attributes:
        id: The id of a pair; None uses the row number.
        caption: The caption.
        image_id: The image, if several captions share one.
        score: A stored similarity of caption and image.
    """

    id: str | None = None
    caption: str | None = None
    image_id: str | None = None
    score: str | None = None

    @property
    def id_kind(self) -> IdKind:
        """Kind of the ids: a column called `uid` contains uids, as in DataComp."""
        if self.id is None:
            return "row"
        return "uid" if self.id.strip().lower() == "uid" else "key"


@dataclass(frozen=True)
class ParquetRows:
    """Some rows of a Parquet file.

    Attributes:
        file: The file.
        start: The first row.
        stop: End row, exclusive; None for all.
        hidden: Embedding columns, hidden from the owner's columns.
    """

    file: DataFile
    start: int = 0
    stop: int | None = None
    hidden: tuple[str, ...] = ()

    def rows(self) -> int:
        """Count the rows by the file's footer.

        Raises:
            ShardError: If the data cannot be read.
        """
        with self.opened() as file:
            return self._span(file)[1] - self.start

    def schema(self) -> pa.Schema:
        """Return names and types of the user's own columns, with dictionary columns as their value type.

        Raises:
            ShardError: If the file cannot be read.
        """
        import pyarrow as pa

        with self.opened() as file:
            fields = [f for f in file.schema_arrow if f.name not in self.hidden]
        names = [field.name for field in fields]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ShardError(f"{self.file}: several columns are called {twice[0]!r:.80}")
        return pa.schema([pa.field(f.name, _plain(f.type)) for f in fields])

    def texts(self, column: str) -> list[str]:
        """Read a column of text or whole numbers as text; missing values are empty.

        Raises:
            ShardError: If the file cannot be read, has no such column, or the column has another type.
        """
        found: list[str] = []
        for array in self._batches(column):
            if not _is_text(array.type):
                raise ShardError(
                    f"{self.file}: column {column!r:.80} holds {array.type}: expected text or whole numbers"
                )
            found += ["" if value is None else str(value) for value in values_of(array)]
        return found

    def numbers(self, column: str) -> Array:
        """Read a column of numbers or booleans as float32, shape `(rows,)`; missing values are NaN.

        Raises:
            ShardError: As `texts`.
        """
        import pyarrow as pa

        found = []
        for array in self._batches(column):
            kind = array.type
            known = (
                pa.types.is_floating,
                pa.types.is_integer,
                pa.types.is_boolean,
                pa.types.is_null,
            )
            if not any(test(kind) for test in known):
                raise ShardError(
                    f"{self.file}: column {column!r:.80} holds {array.type}: expected numbers"
                )
            with self._broken():
                plain = array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array
                plain = plain.cast(pa.float32(), safe=False)
            found.append(plain.to_numpy(zero_copy_only=False))
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def table(self, rows: IntArray) -> pa.Table:
        """Read all own columns of some rows, in the requested order.

        Args:
            rows: Row numbers, counted from 0 at `start`.

        Raises:
            ShardError: If the file cannot be read, or the rows contain too much text.
        """
        import pyarrow as pa

        schema = self.schema()
        wanted = np.asarray(rows, dtype=np.int64)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order] + self.start
        pieces = []
        limit = MOST_TEXT + TEXT_PER_BYTE * self.file.size()
        with self.opened() as plain:
            leaves = text_leaves(plain, schema.names)
            metadata = plain.metadata
            if (
                len(wanted)
                and not 0 <= wanted.min() <= wanted.max() < self._span(plain)[1] - self.start
            ):
                raise ShardError(f"{self.file}: has no row {int(wanted.max())}")
        with self.opened(read_dictionary=leaves, metadata=metadata) as file:
            for group, first, last in _groups(metadata):
                inside = ascending[(ascending >= first) & (ascending < last)] - first
                if not len(inside):
                    continue
                self._refuse_packed(metadata, schema.names, [group])
                with self._broken():
                    read = file.read_row_group(group, columns=schema.names, use_threads=False)
                    piece = read.take(pa.array(inside)).combine_chunks()
                    limit -= sum(text_bytes(c) for column in piece.columns for c in column.chunks)
                    if limit < 0:
                        raise ShardError(f"{self.file}: too much text (a decompression bomb?)")
                    pieces.append(piece.cast(schema))
        found = pa.concat_tables(pieces) if pieces else schema.empty_table()
        return found.take(pa.array(np.argsort(order, kind="stable")))

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of some columns for the rows from `start` to `stop`, with text as dictionaries.

        Raises:
            ShardError: If the file is broken, lacks a column, or unpacks to too much text.
        """
        with self.opened() as plain:
            present = list(plain.schema_arrow.names)
            for column in columns:
                if column not in present:
                    shown = ", ".join(map(one_line, present[:12])) or "none"
                    raise ShardError(
                        f"{self.file}: has no column {column!r:.80}; it has {shown:.200}"
                    )
            leaves, metadata = text_leaves(plain, columns), plain.metadata
            start, stop = self._span(plain)
            groups = [g for g in _groups(metadata) if g[2] > start and g[1] < stop]
            self._refuse_packed(metadata, columns, [group for group, _, _ in groups])
        with self.opened(read_dictionary=leaves, metadata=metadata) as file, self._broken():
            for group, first, _ in groups:
                for batch in file.iter_batches(
                    ROWS_AT_ONCE, row_groups=[group], columns=list(columns), use_threads=False
                ):
                    low, high = max(start - first, 0), min(stop - first, batch.num_rows)
                    if high > low:
                        yield batch.slice(low, high - low)
                    first += batch.num_rows

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Any]:
        """Open the file as a `pyarrow.parquet.ParquetFile` for the block.

        Raises:
            ShardError: If it is not a Parquet file, or pyarrow raises an error in the block.
        """
        import pyarrow.parquet as pq

        with self.file.reading(), self._broken(), ExitStack() as stack:
            path = self.file.local
            place = str(path) if path is not None else stack.enter_context(self.file.open())
            yield stack.enter_context(pq.ParquetFile(place, **options))

    def _batches(self, column: str) -> Iterator[Any]:
        """Yield the arrays of one column, up to a limit on total text."""
        import pyarrow as pa

        limit = MOST_TEXT + TEXT_PER_BYTE * self.file.size()
        for batch in self.batches([column]):
            array = batch.column(0)
            with self._broken():
                # count first: a text stored once may be expanded for every row
                limit -= text_bytes(array)
                if limit < 0:
                    raise ShardError(f"{self.file}: too much text (a decompression bomb?)")
                yield array.dictionary_decode() if pa.types.is_dictionary(array.type) else array

    def _refuse_packed(self, metadata: Any, columns: Sequence[str], groups: Sequence[int]) -> None:
        try:
            refuse_packed(metadata, self.file.size(), self.file, columns=columns, groups=groups)
        except InputError as error:
            raise ShardError(str(error)) from None

    def _span(self, file: Any) -> tuple[int, int]:
        rows = int(file.metadata.num_rows)
        return self.start, rows if self.stop is None else min(self.stop, rows)

    @contextmanager
    def _broken(self) -> Iterator[None]:
        broken: tuple[type[Exception], ...] = (*arrow_errors(), IndexError)
        try:
            yield
        except broken as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ShardError(
                f"{self.file}: broken Parquet file ({one_line(short(error))})"
            ) from None


def choose_columns(
    files: Sequence[ParquetRows], usual: Mapping[str, Sequence[str]], **given: str | None
) -> ColumnChoice:
    """Find the columns of ids, captions, images and scores: those given by options, or columns with usual names.

    Args:
        files: Tables of the shards.
        usual: Usual names for each column, the likeliest first.
        **given: The user's choice for each.

    Raises:
        InputError: As `find_column`, or if the ids in the first readable table are neither text nor whole numbers, so
            that no list could be written.
    """
    chosen = ColumnChoice(
        **{
            option: find_column(files, option, name, usual.get(option, ()))
            for option, name in given.items()
        }
    )
    for own in files if chosen.id is not None else ():
        try:
            kind = own.schema().field(chosen.id).type
        except (ShardError, KeyError):
            continue
        if not _is_text(kind):
            raise InputError(
                f"{own.file}: column {chosen.id!r:.80} holds {kind}: ids must be text or whole numbers: convert "
                "it, or name another column with the option id"
            )
        break
    return chosen


def find_column(
    files: Sequence[ParquetRows], option: str, given: str | None, usual: Sequence[str] = ()
) -> str | None:
    """Find the column given by an option, or the first column with a usual name.

    Args:
        files: Tables of the shards. The first readable one decides, unless it lacks a given column.
        option: Name of the option, for the message.
        given: The user's choice, or a required name.
        usual: Usual names, the likeliest first.

    Returns:
        The name; None if no name was given or usual.

    Raises:
        InputError: If no file has the given column.
    """
    if given is None and not usual:
        return None
    first: tuple[str, list[str]] | None = None
    problem = ""
    for own in files:
        try:
            names = list(own.schema().names)
        except ShardError as error:
            problem = problem or str(error)
            continue
        if given is None:
            return usual_column(names, usual)
        if given in names:
            return given
        first = first or (str(own.file), names)
    if given is None:
        return None
    if first is None:
        raise InputError(
            f"option {option}={given!r:.80}: no table can be read ({problem or 'there are none'})"
        )
    shown = ", ".join(map(one_line, first[1][:12])) or "none"
    raise InputError(
        f"{first[0]}: has no column {given!r:.80} (option {option}): name one of {shown:.200}"
    )


def _groups(metadata: Any) -> Iterator[tuple[int, int, int]]:
    """Yield index, start row and end row of each row group."""
    first = 0
    for group in range(metadata.num_row_groups):
        last = first + metadata.row_group(group).num_rows
        yield group, first, last
        first = last


def _is_text(kind: Any) -> bool:
    """Check whether values of an Arrow type are read as text; a column of type null has none."""
    import pyarrow.types as types

    return is_text_type(kind) or types.is_integer(kind) or types.is_null(kind)


def _plain(kind: Any) -> Any:
    """Return the value type of a dictionary type; return other types unchanged."""
    import pyarrow.types as types

    return kind.value_type if types.is_dictionary(kind) else kind


def storable(text: str) -> str:
    """Escape text that is not valid Unicode, from files that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
