"""Precomputed embeddings, shard by shard: what every format returns and every reader receives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.integer[Any]]
IdKind = Literal["uid", "key", "row"]


class ShardError(InputError):
    """One shard cannot be read: the message is one line that names the file; other shards are not affected."""


class Shard(Protocol):
    """Some pairs whose embeddings lie in files of their own; making one reads nothing, and it can be pickled.

    Every method reads the files again and raises `ShardError` where they cannot be used.
    """

    @property
    def name(self) -> str:
        """The name of the shard, unique in its source, such as `00012`."""
        ...

    @property
    def rows(self) -> int:
        """The number of pairs by the file's own header; 0 if not even that can be read."""
        ...

    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings of captions and of images, as stored and not normalised.

        Returns:
            Two arrays of shape `(rows, d)`, float16 or float32; memory-mapped and read-only where the file allows.
        """
        ...

    def ids(self) -> list[str]:
        """Return the id of each pair: a uid, a key, or the number of its row in the file (`EmbeddedSource.id_kind`)."""
        ...

    def captions(self) -> list[str] | None:
        """Return the caption of each pair (empty where there is none), or None if the source has no captions."""
        ...

    def image_ids(self) -> list[str] | None:
        """Return which image each pair has, where several captions share one; None: one caption an image."""
        ...

    def stored_scores(self) -> Array | None:
        """Return a stored similarity, shape `(rows,)`, NaN where there is none; None if the source stores none."""
        ...

    def table(self, rows: IntArray) -> pa.Table:
        """Return all own columns of some rows, unchanged and in the order that is asked for.

        Args:
            rows: Numbers of rows from 0 to `rows` - 1.
        """
        ...

    def schema(self) -> pa.Schema:
        """Return names and types of the own columns."""
        ...


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


S = TypeVar("S", bound=Any)


def make_source(format: str, root: str, shards: Iterable[S], id_kind: IdKind) -> EmbeddedSource:
    """Make a source of shards whose headers were read.

    Args:
        format: Registered name of the format.
        root: What the user named.
        shards: Dataclasses with `name`, `rows` and `dimension` (0 where the header cannot be read).
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
