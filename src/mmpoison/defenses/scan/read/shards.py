"""Precomputed embeddings: the files of a place, shards of pairs in them, and the formats that they come in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_special
from mmpoison.base.phrasing import one_line
from mmpoison.base.registry import Registry
from mmpoison.base.untrusted import plain_file
from mmpoison.datasets.options import fit_options
from mmpoison.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.integer[Any]]
IdKind = Literal["uid", "key", "row"]


class ShardError(InputError):
    """One shard cannot be read: the message is one line that names the file; other shards are not affected."""


# -- Files on this machine or in an object store (`s3://`, `gs://`, `hf://`, any address of fsspec).

A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S", bound=Any)

REQUESTS_AT_ONCE = 16
"""Headers that are asked for at the same time: an answer of an object store takes about 0.1 seconds."""


@dataclass(frozen=True)
class DataFile:
    """A file that is opened when it is read.

    Attributes:
        path: Its path, in the store where there is one.
        store: A file system of fsspec, None for this machine.
        refused: Why it must not be read, empty if it may.
    """

    path: str
    store: Any = field(default=None, repr=False)
    refused: str = ""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rpartition("/" if self.store is not None else os.sep)[2]

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return self.name.rpartition(".")[0] or self.name

    def __str__(self) -> str:
        whole = self.path if self.store is None else self.store.unstrip_protocol(self.path)
        return one_line(str(whole))

    @property
    def local(self) -> Path | None:
        """Its path on this machine, None for a file in a store.

        Raises:
            ShardError: If it must not be read.
        """
        if self.refused:
            raise ShardError(self.refused)
        if self.store is not None:
            return None
        path = Path(self.path)
        try:
            refuse_special(path)
        except InputError as error:
            raise ShardError(one_line(str(error))) from None
        return path

    def size(self) -> int:
        """Return its size in bytes.

        Raises:
            ShardError: If it is not there or cannot be asked.
        """
        with self.reading():
            path = self.local
            return path.stat().st_size if path is not None else int(self.store.size(self.path))

    def bytes_between(self, start: int, stop: int) -> bytes:
        """Read a part of it; fewer bytes where it is shorter.

        Raises:
            ShardError: If it cannot be read.
        """
        with self.reading():
            path = self.local
            if path is None:
                return bytes(self.store.cat_file(self.path, start=start, end=stop))
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(stop - start)

    def open(self) -> Any:
        """Open it for reading, with `seek`.

        Raises:
            ShardError: If it cannot be opened.
        """
        with self.reading():
            path = self.local
            return path.open("rb") if path is not None else self.store.open(self.path, "rb")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of the system or of the store in the block into a `ShardError` that names this file."""
        try:
            yield
        except FileNotFoundError:
            raise ShardError(f"{self}: no such file") from None
        except Exception as error:
            known = (OSError, ValueError) if self.store is None else Exception
            if isinstance(error, (InputError, MemoryError)) or not isinstance(error, known):
                raise
            raise ShardError(f"{self}: cannot be read ({reason_of(error)})") from None


@dataclass
class Listing:
    """What the user named, a folder or one file, with each folder listed once.

    Attributes:
        given: The address as the user wrote it.
        place: The folder or file.
    """

    given: str
    place: DataFile
    _known: dict[str, dict[str, DataFile]] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether one file is named."""
        if self.place.store is not None:
            return bool(self.place.store.isfile(self.place.path))
        return Path(self.place.path).is_file()

    @property
    def remote(self) -> bool:
        """Whether it lies in a store."""
        return self.place.store is not None

    def files(self, below: str = "", ending: str = "") -> dict[str, DataFile]:
        """List the files of the folder, or of a folder in it, by name; hidden ones are left out.

        Args:
            below: A folder in it.
            ending: What the names end with.

        Returns:
            In the order of names; a link that leads out of the folder is there and refuses to be read. Empty if there
            is no such folder.

        Raises:
            InputError: If `below` is a link that leads out of the folder, or cannot be listed.
        """
        if below not in self._known:
            self._known[below] = dict(sorted(self._list(below)))
        return {name: file for name, file in self._known[below].items() if name.endswith(ending)}

    def file(self, name: str, below: str = "") -> DataFile:
        """Return a file of the folder by name, also one that is not there."""
        found = self.files(below).get(name)
        return found if found is not None else self._child(below, name)

    def _child(self, below: str, name: str) -> DataFile:
        if self.place.store is not None:
            parts = (self.place.path.rstrip("/"), below, name)
            return DataFile("/".join(part for part in parts if part), self.place.store)
        return DataFile(str(Path(self.place.path, below, name)))

    def _list(self, below: str) -> Iterator[tuple[str, DataFile]]:
        if self.place.store is not None:
            folder = "/".join(part for part in (self.place.path.rstrip("/"), below) if part)
            try:
                entries = self.place.store.ls(folder, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return
            except Exception as error:
                # as in `list_place`
                raise _cannot_be_opened(self.given, error) from None
            names = [
                e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == "file"
            ]
            yield from ((n, self._child(below, n)) for n in names if not n.startswith("."))
            return
        home = Path(self.place.path)
        plain_file(home, below)
        try:
            with os.scandir(home / below) as entries:
                found = [(e.name, e.is_symlink()) for e in entries if not Path(e.path).is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise InputError(
                f"{one_line(str(home / below))}: cannot be listed ({reason_of(error)})"
            ) from None
        for name, is_link in found:
            file = self._child(below, name)
            if is_link:
                try:
                    plain_file(home, str(Path(below, name)))
                except InputError as error:
                    file = DataFile(file.path, None, one_line(str(error)))
            if not name.startswith("."):
                yield name, file


def list_place(given: str | Path) -> Listing:
    """Find what a path or an address names, without reading it.

    Args:
        given: A path of this machine, or an address such as `s3://bucket/folder`.

    Raises:
        InputError: If there is nothing, or the package that reads such an address is missing.
    """
    text = os.fspath(given)
    if "://" not in text and "::" not in text:
        if not Path(text).exists():
            raise InputError(f"{one_line(text)}: no such folder or file")
        return Listing(text, DataFile(text))
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(text)
        there = store.exists(path)
    except Exception as error:
        # each package of a store has errors of its own kind: no credentials, no connection, no such package
        raise _cannot_be_opened(text, error) from None
    if not there:
        raise InputError(f"{one_line(text)}: no such folder or file")
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    if "file" in protocols:
        return Listing(text, DataFile(path))
    return Listing(text, DataFile(path, store))


def reason_of(error: Exception) -> str:
    """Return why something could not be read, in a short line."""
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return one_line(" ".join(said.split()))[:200]


def _cannot_be_opened(given: str, error: Exception) -> InputError:
    return InputError(f"{one_line(given)}: cannot be opened ({reason_of(error)})")


def each(function: Callable[[A], B], items: Iterable[A], *, remote: bool) -> list[B]:
    """Call a function for each item, in threads where each call waits for a store; results in the order of items."""
    if not remote:
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))


# -- Shards: what every format returns and every reader receives.


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
