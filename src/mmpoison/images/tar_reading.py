"""Opens tar files that are not trusted: what tarfile reads for one header is bounded.

Before it gives a member, tarfile reads the long names, pax records and maps of holes that belong to it whole into
memory, as large as they claim to be. A file of 2 kB can claim gigabytes, and a packed one can hold them.
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
"""Of one member, with all that extends its header."""

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
"""What tarfile and the unpackers below it raise for broken bytes, in addition to OSError without a number."""


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
        """Seek, as any stream."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, as any stream."""
        return self._stream.tell()


def unpacked(path: Path) -> IO[bytes]:
    """Open a file, unpacked where it is packed with gzip, bzip2 or xz; which its first bytes say."""
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
