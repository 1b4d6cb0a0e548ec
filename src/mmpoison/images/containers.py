"""Reads images inside other files: members of tar shards, rows of Parquet and Arrow files.

An image id is the container's path and the name inside: `00000.tar/000000012.jpg`, `part-0.parquet/17` (the row, from
0), or `part-0.parquet/photo/17` if the images are not in the default column. The files are untrusted: only regular
members are read, sizes are bounded, and names never leave the container.

Reading is safe between threads and after a fork. Shard indices and row groups are cached with bounded size, separately
in each process.
"""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Generic, TypeVar, cast

import numpy as np

from mmpoison.base.text import count_of
from mmpoison.base.untrusted import LeftOut, broken_file, open_bytes, refuse_packed, text_leaves
from mmpoison.errors import InputError

# -- Opens untrusted tar files, bounding what tarfile reads for one header.


MAX_HEADER_BYTES = 1 << 20
"""Limit for one member's header, including extended headers."""

TAR_ERRORS: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # also for names that are not UTF-8
    IndexError,
    OverflowError,
    struct.error,
)
"""Errors of tarfile and decompressors for broken bytes, in addition to OSError without a number."""


class BoundedReader:
    """A stream that counts the bytes read for one header.

    Args:
        stream: A stream of unpacked bytes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MAX_HEADER_BYTES

    def next_header(self) -> None:
        """Start a new count at this position."""
        self._left = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes.

        Raises:
            tarfile.ReadError: If this exceeds the limit for a header.
        """
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek, like any stream."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, like any stream."""
        return self._stream.tell()


# -- The columns of Arrow and Parquet files that contain image bytes.


IMAGE_NAMES = (
    "image",
    "filepath",
    "file_name",
    "filename",
    "image_path",
    "image_name",
    "path",
    "img",
    "jpg",
    "png",
)
"""Usual names of an image column, the likeliest first."""


def arrow_errors() -> tuple[type[Exception], ...]:
    """Return the errors that pyarrow raises for a broken file, and Python's error for names that are not UTF-8."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, UnicodeDecodeError)


def default_image_column(schema: Any) -> str | None:
    """Return the default column of image bytes.

    It is the first usual name whose type is bytes (or Hugging Face's `{bytes, path}`), else the first such column.
    """
    inside = [field.name for field in schema if holds_bytes(field.type)]
    return usual_column(inside, IMAGE_NAMES) or next(iter(inside), None)


def holds_bytes(kind: Any) -> bool:
    """Check whether an Arrow type can hold image bytes."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(
            kind.field(n).name == "bytes" and holds_bytes(kind.field(n).type)
            for n in range(kind.num_fields)
        )
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the first column with a recognised name, ignoring case and surrounding spaces.

    >>> usual_column(["Filepath", " title "], ("caption", "title"))
    ' title '
    """
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)


CONTAINERS = (".tar", ".parquet", ".arrow")

MAX_IMAGE_BYTES = 200 * 2**20
"""Largest image in bytes; larger ones are refused before reading."""

T = TypeVar("T")
Problem = Callable[[str], None]
FileKey = tuple[str, int, int, int]


def split_container(root: Path, image_id: str) -> tuple[str, str] | None:
    """Split an image id into the container file and the name inside; return None for a plain file.

    A folder may also be called `photos.tar`; only a file is a container.
    """
    if not any(f"{kind}/" in image_id for kind in CONTAINERS):
        return None
    parts = image_id.split("/")
    for index, part in enumerate(parts[:-1], start=1):
        if part.endswith(CONTAINERS):
            name = "/".join(parts[:index])
            if (root / name).is_file():
                return name, "/".join(parts[index:])
    return None


def read_inside(container: Path, name: str) -> bytes:
    """Read the bytes of one image in a container.

    Args:
        container: A `.tar`, `.parquet` or `.arrow` file. The caller checks whether it may be read.
        name: Member of the tar file, or row of the table.

    Raises:
        InputError: If the container is broken, or the image is missing, too large or not a regular member.
    """
    try:
        stat = container.stat()
        key = (str(container), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        if container.suffix == ".tar":
            return _read_member(container, name, key)
        return _read_row(container, name, key)
    except OSError as error:
        raise InputError(f"{container}: cannot be read ({error.strerror or error})") from None


# -- tar shards ------------------------------------------------------------------------------------


def walk_tar(
    path: Path, problem: Problem, stream: Any = None
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield the acceptable members of a tar file in order, up to the position where the file is broken.

    Args:
        path: An uncompressed tar file.
        problem: Called with one line for everything left out: members that are not regular files or would leave the
            shard, and everything after a break.
        stream: The open file, if the caller also reads members.

    Yields:
        Name (relative, without `./`) and header of each regular member with complete data.
    """
    if stream is None:
        try:
            with open_bytes(path) as own:
                yield from walk_tar(path, problem, own)
        except InputError as error:
            problem(broken_file(str(error)))
        except OSError as error:
            problem(broken_file(f"{path}: cannot be read ({error.strerror or error})"))
        return
    broken: tuple[type[Exception], ...] = (*TAR_ERRORS, OSError)
    reader = BoundedReader(stream)
    try:
        archive = tarfile.open(  # noqa: SIM115 - closed below
            fileobj=cast("IO[bytes]", reader), mode="r:"
        )
    except broken as error:
        problem(broken_file(f"{path}: not an uncompressed tar file ({error})"))
        return
    size = path.stat().st_size
    count = end = 0
    try:
        with archive:
            while True:
                reader.next_header()
                member = archive.next()
                if member is None:
                    break
                # otherwise it keeps every header (the attribute is undocumented, but commonly used this way)
                archive.members.clear()  # type: ignore[attr-defined]
                if member.size < 0 or member.offset < end:
                    raise tarfile.ReadError("it leads back to itself")
                count += 1
                end = archive.offset
                if member.isreg() and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"cut short within {member.name!r:.80}")
                if member.isdir():
                    continue
                name = _member_name(member.name)
                if name is not None and member.isreg() and not member.issparse():
                    yield name, member
                    continue
                why = "leaves the shard" if name is None else "is not a regular file"
                problem(LeftOut(f"{path}: member {member.name!r:.80} {why}, so it is refused", 0))
        # tarfile takes a header that it cannot read for the end of the archive
        with path.open("rb") as raw:
            raw.seek(end)
            block = raw.read(512)
        if any(block):
            raise tarfile.ReadError("no header")
    except broken as error:
        problem(
            broken_file(
                f"{path}: broken after {count_of(count, 'member')} ({error}); the rest is not read"
            )
        )
        return
    if len(block) < 512:
        problem(
            broken_file(
                f"{path}: has no end mark after {count_of(count, 'member')}: it was cut short"
            )
        )


def _member_name(name: str) -> str | None:
    if name.startswith("./") or "//" in name or "/./" in name:
        name = str(PurePosixPath(name))
    if name.startswith("/") or "\x00" in name or "\\" in name or ".." in name.split("/"):
        return None
    return name


def _read_member(path: Path, name: str, key: FileKey) -> bytes:
    index = _caches.tar.get(key, lambda: _index_tar(path))
    try:
        offset, size = index[name]
    except KeyError:
        raise InputError(f"{path / name}: no such image in the shard") from None
    check_bytes(path / name, size)
    with path.open("rb") as stream:
        # a separate position, so that threads do not interfere
        stream.seek(offset)
        data = stream.read(size)
    if len(data) != size:
        raise InputError(f"{path / name}: cut short")
    return data


def _index_tar(path: Path) -> tuple[dict[str, tuple[int, int]], int]:
    index: dict[str, tuple[int, int]] = {}
    for name, member in walk_tar(path, lambda _: None):
        index.setdefault(name, (member.offset_data, member.size))
    return index, len(index) + 1


# -- rows of tables --------------------------------------------------------------------------------


def arrow_batches(path: Path, problem: Problem) -> Iterator[Any]:
    """Yield the record batches of an Arrow file (stream or file format), memory-mapped.

    Args:
        path: The file.
        problem: Called with one line if the file is broken; batches before the break are yielded.
    """
    import pyarrow as pa

    try:
        with open_bytes(path) as raw:
            is_file = raw.read(6) == b"ARROW1"
        source = pa.memory_map(str(path))
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(source))
    except InputError as error:
        problem(str(error))
        return
    except arrow_errors() as error:
        problem(f"{path}: not an Arrow file ({short(error)})")
        return
    rows = 0
    try:
        for batch in batches:
            # in an untrusted file, offsets may point anywhere, and a name that is not UTF-8 raises here
            batch.validate()
            _ = batch.schema.names
            yield batch
            rows += batch.num_rows
    except arrow_errors() as error:
        problem(f"{path}: broken after row {rows} ({short(error)}); the rest is not read")


def _read_row(path: Path, name: str, key: FileKey) -> bytes:
    import pyarrow as pa

    column, _, number = name.rpartition("/")
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise InputError(f"{path / name}: {number!r:.40} is not a row")
    row = int(number)
    broken: tuple[type[Exception], ...] = (*arrow_errors(), KeyError)
    try:
        find = _parquet_cell if path.suffix == ".parquet" else _arrow_cell
        array, index = find(path, column, row, key)
        if index >= len(array):
            raise InputError(f"{path}: broken: it has fewer rows than it claims")
        cell = array[index]
        if isinstance(cell, pa.StructScalar):
            # ignore the path next to the bytes
            value = cell["bytes"].as_py() if cell.is_valid else None
        else:
            value = cell.as_py()
    except broken as error:
        raise InputError(f"{path / name}: broken file ({short(error)})") from None
    if not isinstance(value, bytes):
        raise InputError(f"{path / name}: the row contains no image")
    check_bytes(path / name, len(value))
    return value


def _image_column(path: Path, column: str, schema: Any) -> str:
    chosen = column or default_image_column(schema) or ""
    if chosen not in schema.names:
        raise InputError(f"{path}: has no column {chosen or 'of images'}")
    return chosen


def _part_of(path: Path, row: int, bounds: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Return the part of a table that contains a row, and the row's position in it."""
    if not 0 <= row < bounds[-1]:
        raise InputError(f"{path}: has no row {row}; it has {bounds[-1]}")
    part = int(np.searchsorted(bounds, row, side="right")) - 1
    return part, row - int(bounds[part])


def _parquet_cell(path: Path, column: str, row: int, key: FileKey) -> tuple[Any, int]:
    import pyarrow.parquet as pq

    def open_metadata() -> tuple[tuple[Any, str, np.ndarray[Any, Any], list[str]], int]:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            chosen = _image_column(path, column, file.schema_arrow)
            leaves = text_leaves(file, [chosen])
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        return (metadata, chosen, np.cumsum([0, *rows]), leaves), 1

    def read_group() -> tuple[Any, int]:
        refuse_packed(metadata, key[1], path, columns=[chosen], groups=[group])
        # one handle per reading, because threads cannot share them
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=leaves) as file:
            array = file.read_row_group(group, columns=[chosen], use_threads=False)[chosen]
        return array, int(array.nbytes)

    metadata, chosen, bounds, leaves = _caches.tables.get((*key, column), open_metadata)
    group, index = _part_of(path, row, bounds)
    array = _caches.groups.get((*key, chosen, group), read_group)
    return array, index


def _arrow_cell(path: Path, column: str, row: int, key: FileKey) -> tuple[Any, int]:

    def open_columns() -> tuple[tuple[list[Any], np.ndarray[Any, Any]], int]:
        arrays: list[Any] = []
        for batch in arrow_batches(path, lambda _: None):
            arrays.append(batch.column(_image_column(path, column, batch.schema)))
        return (arrays, np.cumsum([0, *map(len, arrays)])), 1

    arrays, bounds = _caches.tables.get((*key, column), open_columns)
    part, index = _part_of(path, row, bounds)
    # check only this cell, because checking all would read the whole file
    arrays[part].slice(index, 1).validate(full=True)
    return arrays[part], index


def check_bytes(path: Path, size: int) -> None:
    """Refuse an image with more than `MAX_IMAGE_BYTES` bytes.

    Raises:
        InputError: If the image is larger.
    """
    if size > MAX_IMAGE_BYTES:
        raise InputError(f"{path}: {size:,} bytes are over the limit of {MAX_IMAGE_BYTES:,}")


def short(error: BaseException) -> str:
    """Shorten pyarrow's error to one line."""
    return " ".join(str(error).split())[:160]


# -- caches ----------------------------------------------------------------------------------------


class _Cache(Generic[T]):
    """A cache of recently used objects up to a total weight. Each is created once, while other threads wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.weight = 0
        self._items: OrderedDict[Any, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], tuple[T, int]]) -> T:
        with self._lock:
            if key not in self._items:
                self._items[key] = make()
                self.weight += self._items[key][1]
            self._items.move_to_end(key)
            while self.weight > self.limit and len(self._items) > 1:
                self.weight -= self._items.popitem(last=False)[1][1]
            return self._items[key][0]


class _Caches:
    def __init__(self) -> None:
        # about 150 bytes per member
        self.tar: _Cache[dict[str, tuple[int, int]]] = _Cache(2_000_000)
        self.tables: _Cache[Any] = _Cache(128)
        self.groups: _Cache[Any] = _Cache(256 * 2**20)


_caches = _Caches()


def _renew_caches() -> None:
    global _caches
    _caches = _Caches()


# a lock held by another thread during a fork would stay locked in the child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_caches)
