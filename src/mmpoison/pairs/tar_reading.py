"""Opens untrusted tar files: bounds what tarfile reads for one header.

Before it returns a member, tarfile reads its long names, pax records and sparse maps into memory, with the size that
they claim to have. A file of 2 kB can claim gigabytes, and a compressed one can contain them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

MAX_HEADER_BYTES = 1 << 20
"""The largest header of one member, with everything that extends it."""

TAR_ERRORS: tuple[type[Exception], ...] = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # also of names that are no UTF-8
    IndexError,
    OverflowError,
    struct.error,
)
"""What tarfile and the decompressors raise for broken bytes, besides OSError without a number."""


class BoundedReader:
    """A stream whose reads are counted, as far as they belong to one header.

    Args:
        stream: Of unpacked bytes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left: int | None = MAX_HEADER_BYTES

    def next_header(self) -> None:
        """Start a new count at this position."""
        self._left = MAX_HEADER_BYTES

    def no_more_headers(self) -> None:
        """Count no longer: the members' own bytes are read, a piece at a time."""
        self._left = None

    def read(self, size: int) -> bytes:
        """Read so many bytes.

        Raises:
            tarfile.ReadError: If they are too many for a header.
        """
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise tarfile.ReadError(f"a header of more than {MAX_HEADER_BYTES >> 20} MiB")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any stream."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As of any stream."""
        return self._stream.tell()


def unpacked(path: Path) -> IO[bytes]:
    """Open a file, decompressed if its first bytes are those of gzip, bzip2 or xz."""
    with path.open("rb") as raw:
        head = raw.read(6)
    for start, opener in (
        (b"\x1f\x8b", gzip.open),
        (b"BZh", bz2.open),
        (b"\xfd7zXZ\x00", lzma.open),
    ):
        if head.startswith(start):
            return cast("IO[bytes]", cast(Any, opener)(path, "rb"))
    return path.open("rb")


def open_tar(reader: BoundedReader) -> tarfile.TarFile:
    """Open a tar file whose headers are bounded.

    Raises:
        tarfile.TarError: If it is none; and the others of `TAR_ERRORS`.
    """
    return tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r:")
