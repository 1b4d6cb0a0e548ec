"""Reads embedding matrices from `.npy` files and members of `.npz` files, memory-mapped if possible.

The files are untrusted: nothing is unpickled, only two-dimensional floating-point arrays are accepted, and a header
that claims more data than the file contains is refused before memory is allocated.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from mmpoison.base.text import count_of, one_line
from mmpoison.base.untrusted import most_unpacked
from mmpoison.defenses.scan.read.files import Array, DataFile, ShardError
from mmpoison.defenses.scan.read.shards import Shard
from mmpoison.defenses.scan.read.tables import ColumnChoice, ParquetRows

MOST_BYTES = 16 << 30
"""Largest array that cannot be memory-mapped (in a store, or compressed); larger ones are refused."""

MOST_ROWS = 1 << 40
"""Maximum number of rows: a header can claim any number, and an error message would repeat all its digits."""

HEADER_BYTES = 12_000
"""The header of a plain array takes 128 bytes; NumPy refuses more than 10,000."""

_MAPPED = (np.dtype("<f2"), np.dtype("<f4"))
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


@dataclass(frozen=True)
class Header:
    """The header of an array.

    Attributes:
        rows: Number of embeddings.
        columns: Numbers per embedding.
        dtype: Type of the numbers.
        fortran: Whether columns are contiguous instead of rows.
        start: Offset of the numbers in the `.npy` data.
    """

    rows: int
    columns: int
    dtype: np.dtype[np.floating]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """Size of all numbers in bytes."""
        return self.rows * self.columns * self.dtype.itemsize


@dataclass(frozen=True)
class ArrayFile:
    """A matrix in a file.

    Attributes:
        file: A `.npy` file, or the `.npz` file that contains it.
        member: Name of the array in the `.npz` file; empty for a `.npy` file.
    """

    file: DataFile
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file} array {one_line(self.member)!r}" if self.member else str(self.file)

    def header(self) -> Header:
        """Read the header, without the numbers.

        Raises:
            ShardError: If the file cannot be read, is truncated, or is not a floating-point matrix.
        """
        with self._opened() as (stream, length, _):
            return self._header(stream, length)

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Read rows.

        Args:
            start: First row.
            stop: End row, exclusive; all rows by default.

        Returns:
            Shape `(stop - start, d)`, float16 or float32 (other types become float32), read-only. Memory-mapped if the
            file is local and not compressed.

        Raises:
            ShardError: As `header`.
        """
        with self._opened() as (stream, length, offset):
            header = self._header(stream, length)
            kind, shape = header.dtype, (header.rows, header.columns)
            stop = header.rows if stop is None else min(stop, header.rows)
            if stop <= start:
                found: Array = np.empty((0, header.columns), kind)
            elif offset is not None and (path := self.file.local) is not None:
                offset += header.start
                order: Literal["F", "C"] = "F" if header.fortran else "C"
                found = np.memmap(path, kind, "r", offset, shape, order)[start:stop]
            else:
                found = self._read_rows(stream, header, start, stop)
        native = kind if kind in _MAPPED else np.dtype("<f4")
        # numbers beyond float32 become infinite, and count as not finite
        with np.errstate(over="ignore"):
            return found.astype(native, copy=False)

    def _read_rows(self, stream: BinaryIO, header: Header, start: int, stop: int) -> Array:
        """Read rows of an array that cannot be memory-mapped."""
        first, last = (0, header.rows) if header.fortran else (start, stop)
        row = header.columns * header.dtype.itemsize
        size = (last - first) * row
        if size > MOST_BYTES:
            raise ShardError(
                f"{self}: {size / 2**30:.1f} GiB do not fit into memory: use smaller shards, or copy it to this "
                "machine uncompressed, to be memory-mapped"
            )
        stream.seek(header.start + first * row)
        raw = stream.read(size)
        if len(raw) < size:
            raise ShardError(f"{self}: cut short, missing {count_of(size - len(raw), 'byte')}")
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        numbers = np.frombuffer(raw, header.dtype).reshape(-1, header.columns, order=order)
        return numbers[start - first : stop - first]

    def _header(self, stream: BinaryIO, length: int) -> Header:
        shape, fortran, dtype, start = read_header(stream, str(self))
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise ShardError(
                f"{self}: holds {one_line(str(dtype))[:40]}: expected float16 or float32 numbers"
            )
        if len(shape) != 2 or not (0 <= shape[0] <= MOST_ROWS and 1 <= shape[1] <= MOST_ROWS):
            raise ShardError(f"{self}: has shape {shape!s:.60}, expected (pairs, numbers)")
        header = Header(shape[0], shape[1], dtype, fortran, start)
        if (missing := start + header.bytes - length) > 0:
            raise ShardError(f"{self}: cut short, missing {count_of(missing, 'byte')}")
        return header

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, int, int | None]]:
        """Open the `.npy` data: a stream, its length, and its offset in the file if it is not compressed."""
        if not self.member:
            with self.file.reading(), self.file.open() as raw:
                yield raw, self.file.size(), 0
            return
        with open_archive(self.file) as archive:
            try:
                info = archive.getinfo(f"{self.member}.npy")
            except KeyError:
                names = [one_line(n.removesuffix(".npy")) for n in archive.namelist()[:12]]
                raise ShardError(
                    f"{self.file}: has no array {self.member!r}; it has {', '.join(names) or 'none'}"
                ) from None
            stored = info.compress_type == zipfile.ZIP_STORED
            if not stored and info.file_size > most_unpacked(info.compress_size):
                raise ShardError(
                    f"{self}: {info.compress_size:,} bytes unpack to {info.file_size / 2**30:.1f} GiB (a "
                    "decompression bomb?): save it again without compression (numpy.savez)"
                )
            with archive.open(info) as stream:
                # the local header repeats the lengths of name and extra field, and they may differ
                start = info.header_offset + 26
                lengths = struct.unpack("<HH", self.file.bytes_between(start, start + 4))
                offset = start + 4 + sum(lengths) if stored else None
                yield cast("BinaryIO", stream), info.file_size, offset


@contextmanager
def open_archive(file: DataFile) -> Iterator[zipfile.ZipFile]:
    """Open a `.npz` file.

    Raises:
        ShardError: If the file, or data read from it, is broken.
    """
    try:
        with file.reading(), file.open() as raw, zipfile.ZipFile(raw) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise ShardError(f"{file}: broken .npz file ({one_line(str(error))[:160]})") from None


def read_header(stream: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of `.npy` data.

    Args:
        stream: A stream at the start of the data.
        where: For the error message.

    Returns:
        Shape, whether columns are contiguous, type of the numbers, and their offset.

    Raises:
        ShardError: If the data cannot be read.
    """
    raw = io.BytesIO(stream.read(HEADER_BYTES))
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(raw)](raw)
    except Exception:
        # a damaged header raises errors from ast, tokenize or numpy, or a MemoryError
        raise ShardError(f"{where}: is not a .npy array (its header cannot be read)") from None
    return tuple(map(int, shape)), bool(fortran), dtype, raw.tell()


# -- Shards with embeddings in arrays and a table in Parquet: clip-retrieval, DataComp, two `.npy` files.


@dataclass(frozen=True, kw_only=True)
class ArrayShard(Shard):
    """Rows of two arrays and of their table.

    Attributes:
        text: Embeddings of captions.
        image: Embeddings of images.
        stop: End row, exclusive; None for all.
    """

    text: ArrayFile
    image: ArrayFile
    stop: int | None = None

    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings, see `Shard.vectors`."""
        self.check()
        text = self.text.read(self.start, self.stop)
        return text, self.image.read(self.start, self.stop)

    def check(self) -> None:
        """Refuse files whose rows cannot correspond, because nothing in them can be joined."""
        text, image = self.text.header(), self.image.header()
        if text.rows != image.rows:
            raise ShardError(
                f"{self.image}: has {image.rows:,} rows, but {self.text} has {text.rows:,}: they do not match"
            )
        for array, header in ((self.text, text), (self.image, image)):
            if header.columns != (self.dimension or text.columns):
                raise ShardError(
                    f"{array}: has {header.columns:,} numbers per row, but the others have "
                    f"{self.dimension or text.columns:,}"
                )
        rows = (text.rows if self.stop is None else min(self.stop, text.rows)) - self.start
        if self.own is not None and (own := self.own.rows()) != rows:
            raise ShardError(
                f"{self.own.file}: has {own:,} rows, but {self.text} has {rows:,}: they do not match"
            )


def sizes_of(text: ArrayFile) -> tuple[int, int]:
    """Return an array's rows and dimension from its header, or zeros if it is unreadable."""
    try:
        header = text.header()
    except ShardError:
        return 0, 0
    return header.rows, header.columns


def whole_arrays(
    name: str, text: ArrayFile, image: ArrayFile, own: ParquetRows | None, columns: ColumnChoice
) -> ArrayShard:
    """Return a shard with all rows of two arrays."""
    rows, dimension = sizes_of(text)
    return ArrayShard(
        name=name, text=text, image=image, own=own, columns=columns, rows=rows, dimension=dimension
    )
