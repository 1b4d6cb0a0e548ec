"""Embedding files, on this machine or in an object store (`s3://`, `gs://`, `hf://`, any address of fsspec)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_special
from mmpoison.base.text import one_line
from mmpoison.base.untrusted import plain_file
from mmpoison.errors import InputError

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.integer[Any]]
IdKind = Literal["uid", "key", "row"]


class ShardError(InputError):
    """Raised if a shard cannot be read; other shards are unaffected. The message is one line that names the file."""


A = TypeVar("A")
B = TypeVar("B")

REQUESTS_AT_ONCE = 16
"""Concurrent requests for headers: an object store answers in about 0.1 seconds."""


@dataclass(frozen=True)
class DataFile:
    """A file that is opened on reading.

    Attributes:
        path: Its path, within the store if there is one.
        store: An fsspec file system; None for this machine.
        refused: Reason not to read it; empty if it may be read.
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
        """Its name without the extension."""
        return self.name.rpartition(".")[0] or self.name

    def __str__(self) -> str:
        whole = self.path if self.store is None else self.store.unstrip_protocol(self.path)
        return one_line(str(whole))

    @property
    def local(self) -> Path | None:
        """Its path on this machine, None for a file in a store.

        Raises:
            ShardError: If the file must not be read.
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
            ShardError: If the file is missing or inaccessible.
        """
        with self.reading():
            path = self.local
            return path.stat().st_size if path is not None else int(self.store.size(self.path))

    def bytes_between(self, start: int, stop: int) -> bytes:
        """Read a range of bytes, fewer if the file is shorter.

        Raises:
            ShardError: If the data cannot be read.
        """
        with self.reading():
            path = self.local
            if path is None:
                return bytes(self.store.cat_file(self.path, start=start, end=stop))
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(stop - start)

    def open(self) -> Any:
        """Open the file for reading, with `seek`.

        Raises:
            ShardError: If the file cannot be opened.
        """
        with self.reading():
            path = self.local
            return path.open("rb") if path is not None else self.store.open(self.path, "rb")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Convert errors of the system or the store in the block to a `ShardError` that names this file."""
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
    """The user's folder or file; each folder is listed only once.

    Attributes:
        given: The address as the user wrote it.
        place: The folder or file.
    """

    given: str
    place: DataFile
    _known: dict[str, dict[str, DataFile]] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether it is a single file."""
        if self.place.store is not None:
            return bool(self.place.store.isfile(self.place.path))
        return Path(self.place.path).is_file()

    @property
    def remote(self) -> bool:
        """Whether it is in a store."""
        return self.place.store is not None

    def files(self, below: str = "", ending: str = "") -> dict[str, DataFile]:
        """List the files of the folder, or of one of its sub-folders, by name, without hidden files.

        Args:
            below: A sub-folder.
            ending: Ending of the names.

        Returns:
            The files, sorted by name; empty if there is no such folder. Links that lead out of the folder are listed,
            but reading them is refused.

        Raises:
            InputError: If `below` leads out of the folder through a link, or cannot be listed.
        """
        if below not in self._known:
            self._known[below] = dict(sorted(self._list(below)))
        return {name: file for name, file in self._known[below].items() if name.endswith(ending)}

    def file(self, name: str, below: str = "") -> DataFile:
        """Return a file of the folder by name, whether it exists or not."""
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
    """Find the folder or file of a path or address, without reading it.

    Args:
        given: A local path, or an address such as `s3://bucket/folder`.

    Raises:
        InputError: If nothing is found, or the package for such addresses is missing.
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
        # each store's package raises its own errors: no credentials, no connection, missing package
        raise _cannot_be_opened(text, error) from None
    if not there:
        raise InputError(f"{one_line(text)}: no such folder or file")
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    if "file" in protocols:
        return Listing(text, DataFile(path))
    return Listing(text, DataFile(path, store))


def reason_of(error: Exception) -> str:
    """Return the reason for a read error, in one short line."""
    said = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return one_line(" ".join(said.split()))[:200]


def _cannot_be_opened(given: str, error: Exception) -> InputError:
    return InputError(f"{one_line(given)}: cannot be opened ({reason_of(error)})")


def each(function: Callable[[A], B], items: Iterable[A], *, remote: bool) -> list[B]:
    """Call a function for each item, in threads if calls wait for a store; return results in the order of items."""
    if not remote:
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))
