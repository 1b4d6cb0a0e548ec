"""Precomputed embeddings, shard by shard: what every format returns, and the registry of the formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.base.phrasing import one_line
from mmpoison.base.registry import Registry
from mmpoison.datasets.options import fit_options
from mmpoison.defenses.scan.read.files import (
    Array,
    IdKind,
    IntArray,
    Listing,
    ShardError,
    list_place,
)
from mmpoison.defenses.scan.read.tables import ColumnChoice, ParquetRows
from mmpoison.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Shard(ABC):
    """Some pairs whose embeddings lie in files of their own; making one reads nothing, and it can be pickled.

    Every method reads the files again and raises `ShardError` where they cannot be used.

    Attributes:
        name: Its name, unique in its source, such as `00012`.
        own: Its table, None where there is none.
        columns: What the columns of the table mean.
        start: Number of its first row in its files.
        rows: Number of pairs by the file's own header; 0 if not even that can be read.
        dimension: Numbers in an embedding that are expected, 0 if not known.
    """

    name: str
    own: ParquetRows | None
    columns: ColumnChoice
    start: int = 0
    rows: int = 0
    dimension: int = 0

    @abstractmethod
    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings of captions and of images, as stored and not normalised.

        Returns:
            Two arrays of shape `(rows, d)`, float16 or float32; memory-mapped and read-only where the file allows. A
            pair without an embedding has NaN.
        """

    def check(self) -> None:  # noqa: B027 - files of one kind need none
        """Refuse files whose rows cannot be those of each other: nothing in them can be joined."""

    def ids(self) -> list[str]:
        """Return the id of each pair: a uid, a key, or the number of its row in the file (`EmbeddedSource.id_kind`)."""
        found = self._texts(self.columns.id)
        if found is None:
            self.check()
            # of a table that cannot be read there are no ids, not even numbers of rows
            rows = self.rows if self.own is None else self.own.rows()
            return [str(row) for row in range(self.start, self.start + rows)]
        return found

    def captions(self) -> list[str] | None:
        """Return the caption of each pair (empty where there is none), or None if the source has no captions."""
        return self._texts(self.columns.caption)

    def image_ids(self) -> list[str] | None:
        """Return which image each pair has, where several captions share one; None: one caption an image."""
        return self._texts(self.columns.image_id)

    def stored_scores(self) -> Array | None:
        """Return a stored similarity, shape `(rows,)`, NaN where there is none; None if the source stores none."""
        return None if self.columns.score is None else self._own().numbers(self.columns.score)

    def table(self, rows: IntArray) -> pa.Table:
        """Return all own columns of some rows, unchanged and in the order that is asked for.

        Args:
            rows: Numbers of rows from 0 to `rows` - 1.
        """
        import pyarrow as pa

        if self.own is None:
            self.check()
            return pa.table({"row": pa.array(rows, pa.int64())}).select([])
        return self._own().table(rows)

    def schema(self) -> pa.Schema:
        """Return names and types of the own columns."""
        import pyarrow as pa

        return pa.schema([]) if self.own is None else self.own.schema()

    def _texts(self, column: str | None) -> list[str] | None:
        return None if column is None else self._own().texts(column)

    def _own(self) -> ParquetRows:
        self.check()
        assert self.own is not None, "a column was chosen, and there is no table"
        return self.own


@dataclass(frozen=True)
class EmbeddedSource:
    """Pairs of which only embeddings and a table are given, in shards.

    Attributes:
        format: Registered name of the format.
        root: What the user named.
        shards: In the order of their numbers or names.
        dimension: Numbers in an embedding.
        id_kind: What `Shard.ids` holds: "uid" (32 hexadecimal digits, as DataComp has), "key" (any text, such as the
            `__key__` of a tar) or "row" (the number of the row in the file).
    """

    format: str
    root: str
    shards: tuple[Shard, ...]
    dimension: int
    id_kind: IdKind

    @property
    def pairs(self) -> int:
        """The sum of the shards' rows."""
        return sum(shard.rows for shard in self.shards)


def make_source(format: str, root: str, shards: Iterable[Shard], id_kind: IdKind) -> EmbeddedSource:
    """Make a source of shards whose headers were read.

    Args:
        format: Registered name of the format.
        root: What the user named.
        shards: Its shards.
        id_kind: Kind of their ids.

    Returns:
        The source; its dimension is the commonest one, and a shard of another raises when it is read.

    Raises:
        InputError: If no shard can be read (the message is that of the first), none has a row, or two have one name.
    """
    found = list(shards)
    names = Counter(shard.name for shard in found)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{root}: two shards are called {twice[0]!r:.80}: rename one of the files")
    sizes = Counter(shard.dimension for shard in found if shard.rows and shard.dimension)
    if not sizes:
        try:
            found[0].vectors()
        except ShardError as error:
            raise InputError(f"{error} (none of {len(found):,} shards can be read)") from None
        raise InputError(f"{root}: has no embeddings: its files hold 0 pairs")
    dimension = sizes.most_common(1)[0][0]
    alike = tuple(replace(shard, dimension=dimension) for shard in found)
    return EmbeddedSource(format, root, alike, dimension, id_kind)


# -- The formats, found through one registry.


@dataclass(frozen=True)
class EmbeddedFormat:
    """A layout in which people hold embeddings of captions and images.

    Attributes:
        name: Registered name; `format=` takes it.
        summary: One line: whose layout it is.
        looks_for: The files by which it is recognised, for messages.
        recognise: Gives the evidence (the name of a file) that a place is of this format, or None.
        open: `open(place, **options)` gives the source; the keyword-only parameters are its options.
    """

    name: str
    summary: str
    looks_for: str
    recognise: Callable[[Listing], str | None]
    open: Callable[..., EmbeddedSource]


EMBEDDED_FORMATS: Registry[EmbeddedFormat] = Registry(
    "format of embeddings", "mmpoison.defenses.scan.read.formats"
)


def register(format: EmbeddedFormat) -> EmbeddedFormat:
    """Register a format under its name."""
    return EMBEDDED_FORMATS.register(format.name)(format)


def open_embedded(
    path: str | Path, *, format: str | None = None, options: Mapping[str, Any] | None = None
) -> EmbeddedSource:
    """Open precomputed embeddings; only headers are read.

    Args:
        path: A folder or file of this machine, or an address of fsspec such as `s3://bucket/folder`.
        format: Registered name of the format, where it cannot be recognised.
        options: Options of the format, as text or as values.

    Returns:
        The source. A shard that cannot be read is in it and raises `ShardError` when it is read.

    Raises:
        InputError: If there is nothing at the path, no format or several recognise it, an option is unknown, or no
            shard can be read.
    """
    place = list_place(path)
    chosen = recognise_embedded(place) if format is None else EMBEDDED_FORMATS[format]
    fitted = fit_options(options or {}, chosen.open, f"format {chosen.name!r}")
    return chosen.open(place, **fitted)


def recognise_embedded(place: Listing) -> EmbeddedFormat:
    """Recognise the format of embeddings by the files of a place.

    Raises:
        InputError: If none fits (the message lists what was looked for) or several do.
    """
    found = [
        (known, evidence)
        for known in EMBEDDED_FORMATS.values()
        if (evidence := known.recognise(place)) is not None
    ]
    shown = one_line(place.given)
    if not found:
        sought = "; ".join(
            f"{known.name}: {known.looks_for}" for known in EMBEDDED_FORMATS.values()
        )
        raise InputError(f"{shown}: no known format of embeddings, looked for {sought}")
    if len(found) > 1:
        kinds = " or ".join(f"{known.name} ({one_line(evidence)})" for known, evidence in found)
        raise InputError(f"{shown}: could be {kinds}: say which with --format")
    return found[0][0]
