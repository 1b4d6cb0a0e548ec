"""Reads matrices of embeddings from `.npy` files and members of `.npz` files: mapped into memory where they can be.

The files are untrusted: nothing is unpickled, only two-dimensional arrays of floating-point numbers are taken, and a
header that promises more than the file holds is refused before memory is taken for it.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import most_unpacked
from mmpoison.embedded.files import DataFile
from mmpoison.embedded.own_columns import ColumnChoice, OwnColumns, TableShard
from mmpoison.embedded.source import Array, ShardError

MOST_BYTES = 16 << 30
"""An array that cannot be mapped (in a store, or compressed) and takes more memory is refused."""

MOST_ROWS = 1 << 40
"""A header can claim any number, and an error message would repeat all its digits."""

HEADER_BYTES = 12_000
"""The header of a plain array takes 128 bytes; NumPy refuses more than 10,000."""

_MAPPED = (np.dtype("<f2"), np.dtype("<f4"))
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


@dataclass(frozen=True)
class Header:
    """What the header of an array says.

    Attributes:
        rows: Number of embeddings.
        columns: Numbers in each.
        dtype: Their type.
        fortran: Whether columns are contiguous and not rows.
        start: Where the numbers begin in the `.npy` data.
    """

    rows: int
    columns: int
    dtype: np.dtype[np.floating]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """Size of the numbers in bytes."""
        return self.rows * self.columns * self.dtype.itemsize


@dataclass(frozen=True)
class ArrayFile:
    """A matrix in a file.

    Attributes:
        file: A `.npy` file, or the `.npz` file that holds it.
        member: Name of the array in a `.npz` file, empty for a `.npy` file.
    """

    file: DataFile
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file} array {one_line(self.member)!r}" if self.member else str(self.file)

    def header(self) -> Header:
        """Read what it holds, without its numbers.

        Raises:
            ShardError: If it cannot be read, is cut short, or is no matrix of floating-point numbers.
        """
        return self._header(self._place())

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Read rows.

        Args:
            start: First row.
            stop: The row after the last one; all by default.

        Returns:
            Shape `(stop - start, d)`, float16 or float32 (other types of numbers become float32), read-only. Mapped
            into memory where the file lies on this machine and is not compressed.

        Raises:
            ShardError: As `header`.
        """
        place = self._place()
        header = self._header(place)
        stop = header.rows if stop is None else min(stop, header.rows)
        rows = max(stop - start, 0)
        shape = (header.rows, header.columns)
        if not rows:
            return np.empty((0, header.columns), _native(header.dtype))
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        if place is not None and (path := self.file.local) is not None:
            with self.file.reading():
                mapped: Array = np.memmap(
                    path,
                    header.dtype,
                    "r",
                    offset=place[0] + header.start,
                    shape=shape,
                    order=order,
                )
            found = mapped[start:stop]
        else:
            found = self._read_rows(place, header, start, stop)
        with np.errstate(
            over="ignore"
        ):  # what float32 cannot hold becomes infinite, and is counted as not finite
            return found.astype(_native(header.dtype), copy=False)

    def _read_rows(
        self, place: tuple[int, int] | None, header: Header, start: int, stop: int
    ) -> Array:
        """Read rows of an array that cannot be mapped."""
        row = header.columns * header.dtype.itemsize
        first, last = (0, header.rows) if header.fortran else (start, stop)
        size = (last - first) * row
        if size > MOST_BYTES:
            raise ShardError(
                f"{self}: {size / 2**30:.1f} GiB do not fit into memory: put smaller shards there, or copy it to this "
                "machine without compression, where it can be mapped"
            )
        skipped = header.start + first * row
        if place is not None:
            raw = self.file.bytes_between(place[0] + skipped, place[0] + skipped + size)
        else:
            with self._unpacking() as stream:
                stream.seek(skipped)
                raw = stream.read(size)
        if len(raw) < size:
            raise ShardError(f"{self}: cut short, {size - len(raw):,} bytes are missing")
        numbers = np.frombuffer(raw, header.dtype)
        if header.fortran:
            found: Array = numbers.reshape(header.columns, -1).T
        else:
            found = numbers.reshape(-1, header.columns)
        return found[start - first : stop - first]

    def _header(self, place: tuple[int, int] | None) -> Header:
        if place is None:
            with self._unpacking() as stream:
                raw = stream.read(HEADER_BYTES)
                length = self._member().file_size
        else:
            raw = self.file.bytes_between(place[0], place[0] + min(place[1], HEADER_BYTES))
            length = place[1]
        header = _parse(raw, str(self))
        if (missing := header.start + header.bytes - length) > 0:
            raise ShardError(f"{self}: cut short, {missing:,} bytes are missing")
        return header

    def _place(self) -> tuple[int, int] | None:
        """Return the offset and length of the `.npy` data in the file, or None for a compressed member."""
        size = self.file.size()
        if not self.member:
            return 0, size
        info = self._member()
        if info.flag_bits & 1:
            raise ShardError(f"{self}: is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            if info.file_size > most_unpacked(info.compress_size):
                raise ShardError(
                    f"{self}: {info.compress_size:,} bytes unpack to {info.file_size / 2**30:.1f} GiB (a bomb?): save "
                    "it again without compression (numpy.savez)"
                )
            return None
        fixed = self.file.bytes_between(info.header_offset, info.header_offset + 30)
        if len(fixed) < 30 or fixed[:4] != b"PK\x03\x04":
            raise ShardError(f"{self}: broken file (no header of the member)")
        name, extra = struct.unpack("<HH", fixed[26:30])
        offset = info.header_offset + 30 + name + extra
        if offset + info.file_size > size:
            raise ShardError(
                f"{self}: cut short, {offset + info.file_size - size:,} bytes are missing"
            )
        return offset, info.file_size

    def _member(self) -> zipfile.ZipInfo:
        with self._archive() as archive:
            try:
                return archive.getinfo(f"{self.member}.npy")
            except KeyError:
                names = [one_line(n.removesuffix(".npy")) for n in archive.namelist()[:12]]
                raise ShardError(
                    f"{self.file}: has no array {self.member!r}, it has {', '.join(names) or 'none'}"
                ) from None

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with (
            self.file.reading(),
            _unzipping(self.file),
            self.file.open() as raw,
            zipfile.ZipFile(raw) as archive,
        ):
            yield archive

    @contextmanager
    def _unpacking(self) -> Iterator[io.BufferedIOBase]:
        with self._archive() as archive, archive.open(f"{self.member}.npy") as stream:
            yield stream  # type: ignore[misc]


def array_names(file: DataFile) -> list[str]:
    """List the arrays of a `.npz` file.

    Raises:
        ShardError: If it cannot be read.
    """
    with ArrayFile(file, "any")._archive() as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


@contextmanager
def _unzipping(file: DataFile) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise ShardError(f"{file}: broken .npz file ({one_line(str(error))[:160]})") from None


def _parse(raw: bytes, where: str) -> Header:
    stream = io.BytesIO(raw)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception:
        # a damaged header raises errors of ast, tokenize or numpy, or a MemoryError
        raise ShardError(f"{where}: is no .npy array (its header cannot be read)") from None
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ShardError(
            f"{where}: holds {one_line(str(dtype))[:40]}: float16 or float32 numbers are needed"
        )
    if len(shape) != 2 or not (0 <= shape[0] <= MOST_ROWS and 1 <= shape[1] <= MOST_ROWS):
        raise ShardError(f"{where}: has the shape {shape!s:.60}: (pairs, numbers) is needed")
    return Header(int(shape[0]), int(shape[1]), dtype, bool(fortran), stream.tell())


def _native(dtype: np.dtype[np.floating]) -> np.dtype[np.floating]:
    """Return the type in which numbers are given: as stored if it is a float16 or float32 of this machine."""
    return dtype if dtype in _MAPPED else np.dtype("<f4")


# -- Shards of which the embeddings lie in arrays and the rest in Parquet: clip-retrieval, DataComp, two
# `.npy` files.


@dataclass(frozen=True)
class ArrayShard(TableShard):
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
        self.check()
        text = self.text.read(self.start, self.stop)
        return text, self.image.read(self.start, self.stop)

    def check(self) -> None:
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
