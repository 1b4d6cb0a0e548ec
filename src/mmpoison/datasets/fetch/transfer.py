"""Downloads one public file: resumes, checks what came, and leaves nothing half-made; unpacks zip files."""

from __future__ import annotations

import errno
import hashlib
import http.client
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

from mmpoison._version import __version__
from mmpoison.base.phrasing import file_size, one_line
from mmpoison.base.progress import Progress
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS
from mmpoison.pairs.builder import check_relative

CHUNK = 1 << 20

# -- Unpacks archives that are not trusted: nothing leaves the folder, nothing fills the disk.


MOST_FILES = 1_000_000
"""More members than this are refused; the largest archive that is fetched has 118,287."""

_BROKEN: tuple[type[Exception], ...] = (
    *TAR_ERRORS,
    zipfile.BadZipFile,
    NotImplementedError,
    MemoryError,
)


def unpack(
    archive: Path,
    folder: Path,
    *,
    most_bytes: int,
    wanted: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Unpack a zip file.

    Args:
        archive: The file.
        folder: Where the members go; it must exist.
        most_bytes: What all members together may have. Of a member that holds more than it claims, no more is written.
        wanted: Which members are unpacked, by name; all of them by default.
        progress: Called with (files, all files).

    Returns:
        The paths that were written, relative to the folder.

    Raises:
        InputError: If it is not a zip file, is broken or encrypted, a member would leave the folder, is a link or a
            device, comes twice, or it is larger than it may be or than the disk is.
    """
    try:
        if archive.exists() and not zipfile.is_zipfile(archive):
            raise InputError(f"{archive}: not a zip file")
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _refuse_untrusted(members, archive, most_bytes)
            chosen = [m for m in members if wanted is None or wanted(m.filename)]
            if not chosen:
                raise InputError(f"{archive}: holds none of the expected files")
            check_space(folder, sum(m.file_size for m in chosen), f"unpacking {archive.name}")
            for done, member in enumerate(chosen, start=1):
                _write_member(opened, member, folder / member.filename, archive)
                if progress is not None and (done % 256 == 0 or done == len(chosen)):
                    progress(done, len(chosen))
            return [str(PurePosixPath(member.filename)) for member in chosen]
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{archive}: broken archive ({one_line(str(error))})") from None
    except OSError as error:
        # the unpackers' own have no number, a place before the start has this one
        if error.errno in (None, errno.EINVAL):
            raise InputError(f"{archive}: broken archive ({error})") from None
        raise


def _refuse_untrusted(members: Sequence[zipfile.ZipInfo], archive: Path, most_bytes: int) -> None:
    """Check all members before the first byte is written."""
    if sum(m.file_size for m in members) > most_bytes or len(members) > MOST_FILES:
        raise InputError(
            f"{archive}: unpacks to more than {most_bytes:,} bytes or {MOST_FILES:,} files (a bomb?)"
        )
    for member in members:
        check_relative(member.filename, str(archive))
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
            raise InputError(
                f"{archive}: member {member.filename!r} is a link or a device, it is refused"
            )
        if member.flag_bits & 0x1:
            raise InputError(f"{archive}: member {member.filename!r} is encrypted")
    # on some disks A.jpg and a.jpg are one file
    times = Counter(str(PurePosixPath(member.filename)).lower() for member in members)
    path, most = max(times.items(), key=lambda item: item[1], default=("", 0))
    if most > 1:
        raise InputError(f"{archive}: member {path!r} comes twice")


def _write_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, archive: Path
) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # zipfile gives no more than a member claims, and then compares its checksum
        with opened.open(member) as source, target.open("xb") as stream:
            shutil.copyfileobj(source, stream, CHUNK)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise InputError(
            f"{archive}: member {member.filename!r} is there already, or its folder is a file"
        ) from None


# -- Fetches a file or a page over http or https.


TIMEOUT = 60.0
"""Seconds that a server may stay silent."""

ATTEMPTS = 5
"""Tries in a row that brought not one byte, after which it stops."""

LONGEST_PAUSE = 60.0
"""Seconds: the longest wait between two tries, also where the server asks for more."""

MOST_BYTES = 64 << 30
"""What is taken at most of a file whose size nobody tells."""

RESERVE = 256 << 20
"""Bytes of the disk that are left free."""

_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Downloaded:
    """A downloaded file.

    Attributes:
        path: The file.
        size: Its bytes.
        sha256: Its checksum.
    """

    path: Path
    size: int
    sha256: str


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    most: int = MOST_BYTES,
    progress: Progress | None = None,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
    timeout: float = TIMEOUT,
) -> Downloaded:
    """Fetch a file over http or https; proxies are those of the environment.

    What came so far lies in `TARGET.part`. Where the checksum is known, the next try or call requests only the rest;
    else nothing could show that the rest is of the same file, and it starts again. Connections that break, and servers
    that are busy, are tried again with growing pauses.

    Args:
        url: The address. Redirections are followed to http and https alone, and never from https to http.
        target: Where the file goes; a correct one that exists is not fetched again.
        sha256: What its checksum must be.
        size: How many bytes it must have.
        most: Bytes that are taken at most.
        progress: Called with (bytes, all bytes).
        attempts: Tries in a row that bring no more than those before.
        pause: Seconds before the second try, doubled for each further one.
        timeout: Seconds that the server may stay silent.

    Raises:
        InputError: If the address is wrong or not reached, the disk is too small, or what came is not the file that was
            expected; it is deleted then.
    """
    _check_address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(url, target, sha256 and sha256.lower(), size, most, progress)
    if target.exists():
        return part.check_existing()
    failures = reached = 0
    while True:
        try:
            part.fetch(timeout)
            return part.finish()
        except _TryAgain as trouble:
            if isinstance(trouble, _TooLong):
                part.path.unlink(missing_ok=True)
            failures = 1 if part.have > reached else failures + 1
            reached = max(reached, part.have)
            if failures >= attempts:
                kept = f"; {part.have:,} bytes are saved, the same command resumes"
                raise InputError(
                    f"{url}: {trouble} ({failures} times in a row)"
                    + kept * bool(sha256 and part.have)
                ) from None
            wait = trouble.wait if trouble.wait is not None else pause * 2 ** (failures - 1)
            time.sleep(min(wait, LONGEST_PAUSE))


def read_page(url: str, *, most: int = 16 << 20, timeout: float = TIMEOUT) -> str:
    """Read the text of a page, as UTF-8 or Latin-1.

    Raises:
        InputError: If it is not reached or is larger than `most` bytes.
    """
    _check_address(url)
    try:
        with _open(url, {}, timeout) as answer:
            raw = answer.read(most + 1)
    except (_TryAgain, OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: {error}") from None
    if len(raw) > most:
        raise InputError(f"{url}: more than {most:,} bytes, so this is not the expected page")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse a job for which a disk is too small.

    Raises:
        InputError: If less than the bytes needed and a reserve are free.
    """
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + RESERVE > free:
        raise InputError(
            f"{place}: {what} needs {file_size(needed)}, {file_size(free)} are free: make room or choose another disk"
        )


class _TryAgain(Exception):
    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class _TooLong(_TryAgain):
    """More is here than the server has."""


@dataclass
class _Part:
    """One file, what must be true of it, and the part of it that is here."""

    url: str
    target: Path
    sha256: str | None
    size: int | None
    most: int
    progress: Progress | None
    have: int = 0

    def __post_init__(self) -> None:
        self.path = self.target.with_name(f"{self.target.name}.part")
        self.digest = hashlib.sha256()

    def fetch(self, timeout: float) -> None:
        """Try the download once; received bytes stay in the part file."""
        self._take_up(self.path if self.sha256 is not None else None)
        if self.have and self.digest.hexdigest() == self.sha256:
            return  # all of it was here, and the last step was not taken
        headers = {"Range": f"bytes={self.have}-"} if self.have else {}
        with _open(self.url, headers, timeout) as answer:
            self._receive(answer)

    def _receive(self, answer: http.client.HTTPResponse) -> None:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            self.refuse("the server sends it compressed, although it was asked not to")
        if answer.status != 206:
            self._take_up(None)
        length = answer.headers["Content-Length"] or ""
        total = self.have + int(length) if length.isdecimal() else None
        if total is not None:
            if self.size not in (None, total):
                self.refuse(
                    f"has {total:,} bytes there, {self.size:,} were expected: it was changed, or this is not the file "
                    "but a page about it"
                )
            if total > self.most:
                self.refuse(f"has {total:,} bytes, at most {self.most:,} are taken")
            check_space(self.target.parent, total - self.have, self.target.name)
        most = min(self.most, self.size or self.most)
        with self.path.open("ab" if self.have else "wb") as stream:
            # what is there, not a full chunk: a slow line shows progress, and a break loses nothing
            while data := _read(answer):
                stream.write(data)
                self._count(data, total)
                if self.have > most:
                    self.refuse(f"sends more than {most:,} bytes, so the download was stopped")
        if total is not None and self.have < total:
            raise _TryAgain(f"the connection broke after {self.have:,} of {total:,} bytes")

    def _take_up(self, path: Path | None) -> None:
        """Start with the bytes of a file, or with none; at 20 GB reading them is worth a progress bar too."""
        self.have, self.digest = 0, hashlib.sha256()
        if path is not None and path.exists():
            total = path.stat().st_size
            with path.open("rb") as stream:
                while data := stream.read(CHUNK):
                    self._count(data, total)

    def _count(self, data: bytes, total: int | None) -> None:
        self.have += len(data)
        self.digest.update(data)
        if self.progress is not None:
            self.progress(self.have, max(total or 0, self.have))

    def _fault(self) -> str | None:
        if self.size not in (None, self.have):
            return f"has {self.have:,} bytes, {self.size:,} were expected"
        found = self.digest.hexdigest()
        if self.sha256 not in (None, found):
            return f"its sha256 is {found}, {self.sha256} was expected"
        return None

    def refuse(self, why: str) -> NoReturn:
        """Delete the downloaded part, and raise an error with the reason."""
        self.path.unlink(missing_ok=True)
        raise InputError(f"{self.url}: {why}")

    def finish(self) -> Downloaded:
        """Check the downloaded part, and rename it to the target."""
        if fault := self._fault():
            self.refuse(f"{fault}: it was deleted (changed there, or broken on the way)")
        self.path.replace(self.target)
        return Downloaded(self.target, self.have, self.digest.hexdigest())

    def check_existing(self) -> Downloaded:
        """Check a target that already exists."""
        if not self.target.is_file():
            raise InputError(f"{self.target}: is not a file, so {self.url} cannot be saved there")
        self._take_up(self.target)
        if fault := self._fault():
            raise InputError(
                f"{self.target}: is there already and is not {self.url} ({fault}): move it away"
            )
        return Downloaded(self.target, self.have, self.digest.hexdigest())


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https alone; the headers of the request go with them."""

    max_redirections = 5
    max_repeats = 2

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise InputError(f"{req.full_url}: redirects to {newurl:.200}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    """Send one request.

    Raises:
        _TryAgain: If the server is not reached, or is busy.
        InputError: If it refuses, or leads on to an address that is refused.
    """
    ours = {"User-Agent": f"mmpoison/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers={**ours, **headers})
    try:
        answer: http.client.HTTPResponse = urllib.request.build_opener(_Redirect).open(
            request, timeout=timeout
        )
    except urllib.error.HTTPError as error:
        says = f"the server says {error.code} {one_line(error.reason)}"
        error.close()
        if error.code == 416:
            raise _TooLong("the server has less of the file than is here", wait=0) from None
        if error.code in _TRY_AGAIN:
            raise _TryAgain(says, _retry_after(error.headers.get("Retry-After", ""))) from None
        gone = ": the file is not there (any more)" * (error.code in (404, 410))
        raise InputError(f"{url}: {says}{gone}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(f"not reached ({_reason(error)})") from None
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{url}: redirects to an address that cannot be read") from None
    return answer


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(f"the connection broke ({_reason(error)})") from None


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        sound = None
    if not sound:
        raise InputError(f"{url}: not an address of http or https")


def _retry_after(value: str) -> float | None:
    return float(value) if value.isdecimal() else None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return str(inner) or type(inner).__name__
