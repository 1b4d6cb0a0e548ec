"""Shards of which the embeddings lie in arrays and the rest in Parquet: clip-retrieval, DataComp, two `.npy` files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmpoison.embedded.arrays import ArrayFile
from mmpoison.embedded.own_columns import ColumnChoice, OwnColumns
from mmpoison.embedded.source import Array, IntArray, ShardError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArrayShard:
    """Rows of two arrays and of the table next to them.

    Attributes:
        name: Its name.
        text: Embeddings of captions.
        image: Embeddings of images.
        own: Its table, None where there is none.
        columns: What the columns of the table mean.
        start: First row in the arrays.
        stop: The row after the last one; None for all.
        rows: Number of pairs, 0 if the header cannot be read.
        dimension: Numbers in an embedding that are expected, 0 if not known.
    """

    name: str
    text: ArrayFile
    image: ArrayFile
    own: OwnColumns | None
    columns: ColumnChoice
    start: int = 0
    stop: int | None = None
    rows: int = 0
    dimension: int = 0

    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings, see `Shard.vectors`."""
        self._check()
        text = self.text.read(self.start, self.stop)
        return text, self.image.read(self.start, self.stop)

    def ids(self) -> list[str]:
        """Return the ids, see `Shard.ids`."""
        if self.columns.id is not None:
            return self._own().texts(self.columns.id)
        self._check()
        return [str(row) for row in range(self.start, self.start + self.rows)]

    def captions(self) -> list[str] | None:
        """Return the captions, see `Shard.captions`."""
        return self._texts(self.columns.caption)

    def image_ids(self) -> list[str] | None:
        """Return the images, see `Shard.image_ids`."""
        return self._texts(self.columns.image_id)

    def stored_scores(self) -> Array | None:
        """Return the stored similarity, see `Shard.stored_scores`."""
        return None if self.columns.score is None else self._own().numbers(self.columns.score)

    def table(self, rows: IntArray) -> pa.Table:
        """Return own columns of some rows, see `Shard.table`."""
        import pyarrow as pa

        if self.own is None:
            self._check()
            return pa.table({"row": pa.array(rows, pa.int64())}).select([])
        return self._own().table(rows)

    def schema(self) -> pa.Schema:
        """Return names and types of own columns, see `Shard.schema`."""
        import pyarrow as pa

        return pa.schema([]) if self.own is None else self.own.schema()

    def _texts(self, column: str | None) -> list[str] | None:
        return None if column is None else self._own().texts(column)

    def _own(self) -> OwnColumns:
        self._check()
        assert self.own is not None, "a column was chosen, and there is no table"
        return self.own

    def _check(self) -> None:
        """Refuse files whose rows cannot be those of each other: nothing in them can be joined."""
        text, image = self.text.header(), self.image.header()
        if text.rows != image.rows:
            raise ShardError(
                f"{self.image}: has {image.rows:,} rows, {self.text} has {text.rows:,}: they are not of the same pairs"
            )
        for array, header in ((self.text, text), (self.image, image)):
            if header.columns != (self.dimension or text.columns):
                raise ShardError(
                    f"{array}: has {header.columns:,} numbers a row, the others have "
                    f"{self.dimension or text.columns:,}"
                )
        rows = (text.rows if self.stop is None else min(self.stop, text.rows)) - self.start
        if self.own is not None and (own := self.own.rows()) != rows:
            raise ShardError(
                f"{self.own.file}: has {own:,} rows, {self.text} has {rows:,}: they are not of the same pairs"
            )


def sizes_of(text: ArrayFile) -> tuple[int, int]:
    """Return rows and dimension of an array by its header; zeros if it cannot be read."""
    try:
        header = text.header()
    except ShardError:
        return 0, 0
    return header.rows, header.columns
