"""Downloads one public file with pooch, of bounded size; unpacks zip files that are not trusted."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mmpoison._version import __version__
from mmpoison.base.phrasing import one_line
from mmpoison.base.progress import Progress
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS
from mmpoison.pairs.builder import check_relative

CHUNK = 1 << 18

TIMEOUT = 60.0
"""Seconds that a server may stay silent."""

RETRIES = 2
"""After a first try that failed."""


def download(
    url: str,
    target: Path,
    *,
    most: int,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetch a file over http or https, unless it is there already; proxies are those of the environment.

    It gets its name when all of it is here and its checksum is right.

    Args:
        url: The address. Redirections never lead from https to http.
        target: Where the file goes. What is there is kept, unless its checksum is wrong.
        most: Bytes that are taken at most.
        sha256: What its checksum must be.
        progress: Called with (bytes, most).

    Raises:
        InputError: If the address is wrong or not reached, or what came is not the file that was expected.
    """
    import pooch
    import requests

    def check(answer: requests.Response, **_: Any) -> None:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise ValueError(f"redirects to {answer.url}, which is not encrypted")
        if (size := int(answer.headers.get("Content-Length", 0))) > most:
            raise ValueError(f"has {size:,} bytes there, at most {most:,} were expected")

    def fetch(url: str, path: str, _: Any) -> None:
        # pooch made it for its owner alone
        Path(path).unlink()
        with Path(path).open("wb") as stream:
            headers = {"User-Agent": f"mmpoison/{__version__}", "Accept-Encoding": "identity"}
            get = pooch.HTTPDownloader(
                chunk_size=CHUNK, timeout=TIMEOUT, headers=headers, hooks={"response": check}
            )
            get(url, _Bounded(stream, most, progress), None)

    pooch.get_logger().setLevel("WARNING")
    files = pooch.create(
        target.parent.resolve(),
        base_url="",
        registry={target.name: sha256},
        urls={target.name: url},
        retry_if_failed=RETRIES,
    )
    try:
        files.fetch(target.name, downloader=fetch)
    except (requests.RequestException, ValueError) as error:
        # what urllib3 says without the address once more
        reason = getattr(next(iter(error.args), None), "reason", None) or error
        raise InputError(f"{url}: {one_line(str(reason)):.400}") from None


class _Bounded:
    """A file that takes no more bytes than it should."""

    def __init__(self, stream: BinaryIO, most: int, progress: Progress | None) -> None:
        self._most = most
        self._progress = progress
        self._stream = stream
        self.flush = stream.flush

    def write(self, data: bytes) -> None:
        size = self._stream.tell() + len(data)
        if size > self._most:
            raise ValueError(f"sends more than {self._most:,} bytes")
        self._stream.write(data)
        if self._progress is not None:
            self._progress(size, self._most)


# zipfile says with a RuntimeError that a member is encrypted or packed in a way it does not know
_BROKEN: tuple[type[Exception], ...] = (*TAR_ERRORS, zipfile.BadZipFile, RuntimeError, MemoryError)


def unpack(
    archive: Path,
    folder: Path,
    *,
    most_bytes: int,
    wanted: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
) -> None:
    """Unpack a zip file; a link in it becomes a file.

    Args:
        archive: The file.
        folder: Where the members go; it must exist.
        most_bytes: What they may have together. Of a member that holds more than it claims, no more is written.
        wanted: Which members are unpacked, by name; all of them by default.
        progress: Called with (files, all files).

    Raises:
        InputError: If it is not a zip file, is broken or encrypted, a member would leave the folder, or it is larger
            than it may be.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if wanted is None or wanted(m.filename)]
            if not members:
                raise InputError(f"{archive}: holds none of the expected files")
            if sum(member.file_size for member in members) > most_bytes:
                raise InputError(f"{archive}: unpacks to more than {most_bytes:,} bytes (a bomb?)")
            for member in members:
                check_relative(member.filename, str(archive))
            for done, member in enumerate(members, start=1):
                opened.extract(member, folder)
                if progress is not None and (done % 256 == 0 or done == len(members)):
                    progress(done, len(members))
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{archive}: broken archive ({one_line(str(error))})") from None
    except OSError as error:
        # the unpackers' own have no number, a place before the start has this one
        if error.errno in (None, errno.EINVAL):
            raise InputError(f"{archive}: broken archive ({error})") from None
        raise
