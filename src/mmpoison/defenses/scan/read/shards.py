"""Precomputed embeddings, shard by shard: the interface of all formats, and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.base.registry import Registry
from mmpoison.base.text import one_line
from mmpoison.datasets.catalogue import fit_options
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
    """A group of pairs with their own embedding files. Creating one reads nothing, and it can be pickled.

    Every method reads the files again, and raises `ShardError` if they are unusable.

    Attributes:
        name: Its name, unique in its source, such as `00012`.
        own: Its table; None if there is none.
        columns: Meaning of the table's columns.
        start: Its first row in its files.
        rows: Number of pairs, from the file header; 0 if the header is unreadable.
        dimension: Expected dimension of the embeddings; 0 if unknown.
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
            Two arrays of shape `(rows, d)`, float16 or float32, memory-mapped and read-only if possible. Missing
            embeddings are NaN.
        """

    def check(self) -> None:  # noqa: B027 - files of one kind need none
        """Refuse files whose rows cannot correspond, because nothing in them can be joined."""

    def ids(self) -> list[str]:
        """Return the id of each pair: a uid, a key, or the number of its row in the file (`EmbeddedSource.id_kind`)."""
        found = self._texts(self.columns.id)
        if found is None:
            self.check()
            # an unreadable table provides no ids, not even row numbers
            rows = self.rows if self.own is None else self.own.rows()
            return [str(row) for row in range(self.start, self.start + rows)]
        return found

    def captions(self) -> list[str] | None:
        """Return the caption of each pair (possibly empty), or None if the source has no captions."""
        return self._texts(self.columns.caption)

    def image_ids(self) -> list[str] | None:
        """Return each pair's image if several captions share one; None means one caption per image."""
        return self._texts(self.columns.image_id)

    def stored_scores(self) -> Array | None:
        """Return stored similarities, shape `(rows,)`, NaN if missing; None if the source stores none."""
        return None if self.columns.score is None else self._own().numbers(self.columns.score)

    def table(self, rows: IntArray) -> pa.Table:
        """Return all own columns of some rows, unchanged, in the requested order.

        Args:
            rows: Row numbers from 0 to `rows` - 1.
        """
        import pyarrow as pa

        if self.own is None:
            self.check()
            return pa.table({"row": pa.array(rows, pa.int64())}).select([])
        return self._own().table(rows)

    def schema(self) -> pa.Schema:
        """Return names and types of the user's own columns."""
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
    """Pairs given as embeddings and a table, in shards.

    Attributes:
        format: Registered name of the format.
        root: The path or address given by the user.
        shards: The shards, in order of their numbers or names.
        dimension: Dimension of the embeddings.
        id_kind: Kind of `Shard.ids`: "uid" (32 hexadecimal digits, as in DataComp), "key" (any text, such as the
            `__key__` of a tar) or "row" (the row number in the file).
    """

    format: str
    root: str
    shards: tuple[Shard, ...]
    dimension: int
    id_kind: IdKind

    @property
    def pairs(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)


def make_source(format: str, root: str, shards: Iterable[Shard], id_kind: IdKind) -> EmbeddedSource:
    """Create a source from shards whose headers were read.

    Args:
        format: Registered name of the format.
        root: The path or address given by the user.
        shards: Its shards.
        id_kind: Kind of their ids.

    Returns:
        The source. Its dimension is the most common one; reading a shard with another dimension raises.

    Raises:
        InputError: If no shard is readable (the message is that of the first), none has rows, or two have the same
            name.
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


# -- The registry of formats.


@dataclass(frozen=True)
class EmbeddedFormat:
    """A file layout for embeddings of captions and images.

    Attributes:
        name: Registered name; `format=` takes it.
        summary: One line: whose layout it is.
        looks_for: The files that identify it, for messages.
        recognise: Returns the evidence (a file name) that a folder has this format, or None.
        open: `open(place, **options)` returns the source. Its keyword-only parameters are the options.
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
    """Open precomputed embeddings, reading only headers.

    Args:
        path: A local folder or file, or an fsspec address such as `s3://bucket/folder`.
        format: Registered name of the format, if it cannot be recognised.
        options: Options of the format, as text or as values.

    Returns:
        The source. It includes unreadable shards, which raise `ShardError` on reading.

    Raises:
        InputError: If nothing is at the path, no format or several formats match, an option is unknown, or no shard is
            readable.
    """
    place = list_place(path)
    chosen = recognise_embedded(place) if format is None else EMBEDDED_FORMATS[format]
    fitted = fit_options(options or {}, chosen.open, f"format {chosen.name!r}")
    return chosen.open(place, **fitted)


def recognise_embedded(place: Listing) -> EmbeddedFormat:
    """Recognise the format of embeddings by the files in a folder.

    Raises:
        InputError: If no format matches (the message lists the expected files) or several do.
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
        raise InputError(f"{shown}: no known format of embeddings; looked for {sought}")
    if len(found) > 1:
        kinds = " or ".join(f"{known.name} ({one_line(evidence)})" for known, evidence in found)
        raise InputError(f"{shown}: could be {kinds}: say which with --format")
    return found[0][0]
