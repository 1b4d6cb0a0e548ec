"""Downloads one public file: resumes, checks what came, and leaves nothing half-made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from mmpoison._version import __version__
from mmpoison.base.files import write_json
from mmpoison.base.phrasing import file_size, one_line
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS, BoundedReader, open_tar, unpacked
from mmpoison.pairs.builder import check_relative

# -- Unpacks archives that are not trusted: nothing leaves the folder, nothing fills the disk.


MOST_FILES = 1_000_000
"""More members than this are refused; the largest archive that is fetched has 118,287."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path,
    folder: Path,
    *,
    most_bytes: int,
    wanted: Callable[[str], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Unpack a zip or tar file (plain or packed with gzip, bzip2 or xz).

    Args:
        archive: The file; its kind is recognised by its content.
        folder: Where the members go; it must exist.
        most_bytes: What all members together may have. A member that claims less than it holds is refused too.
        wanted: Which members are unpacked, by name; all of them by default.
        progress: Called with (files, all files).

    Returns:
        The paths that were written, relative to the folder.

    Raises:
        InputError: If it is not an archive, is broken or encrypted, a member would leave the folder, is a link or a
            device, comes twice, or it is larger than it may be or than the disk is.
    """
    broken: tuple[type[Exception], ...] = (
        *TAR_ERRORS,
        zipfile.BadZipFile,
        NotImplementedError,
        MemoryError,
    )
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = _bounded(_zip_members(opened, archive), archive, most_bytes)
                return _write(members, archive, folder, wanted, progress)
        with unpacked(archive) as stream:
            reader = BoundedReader(stream)
            try:
                tar = open_tar(reader)
            except tarfile.ReadError as error:
                # what tarfile says of any file that does not begin with a header
                if "header of more" in str(error):
                    raise
                raise InputError(f"{archive}: not a zip or tar file") from None
            with tar:
                members = _bounded(_tar_members(tar, reader, archive), archive, most_bytes)
                reader.no_more_headers()
                return _write(members, archive, folder, wanted, progress)
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except InputError:
        raise
    except broken as error:
        raise InputError(f"{archive}: broken archive ({one_line(str(error))})") from None
    except OSError as error:
        # the unpackers' own have no number, a place before the start has this one
        if error.errno in (None, errno.EINVAL):
            raise InputError(f"{archive}: broken archive ({error})") from None
        raise


def _zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir():
            continue
        if kind not in (0, stat.S_IFREG):
            raise InputError(
                f"{archive}: member {info.filename!r} is a link or a device, it is refused"
            )
        if info.flag_bits & 0x1:
            raise InputError(f"{archive}: member {info.filename!r} is encrypted")
        yield _Member(info.filename, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def _tar_members(tar: tarfile.TarFile, reader: BoundedReader, archive: Path) -> Iterator[_Member]:
    for info in tar:
        reader.next_header()
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise InputError(
                f"{archive}: member {info.name!r} is a link or a device, it is refused"
            )

        def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
            stream = tar.extractfile(info)
            assert stream is not None  # only members that are no files have none
            return stream

        yield _Member(info.name, info.size, opened)


def _bounded(members: Iterator[_Member], archive: Path, most_bytes: int) -> list[_Member]:
    """List all members; notice a bomb while listing, which already decompresses a packed tar."""
    found: list[_Member] = []
    claimed = 0
    for member in members:
        found.append(member)
        claimed += member.size
        if claimed > most_bytes or len(found) > MOST_FILES:
            raise InputError(
                f"{archive}: unpacks to more than {most_bytes:,} bytes or {MOST_FILES:,} files (a bomb?)"
            )
    return found


def _write(
    members: list[_Member],
    archive: Path,
    folder: Path,
    wanted: Callable[[str], bool] | None,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    # all names are checked before the first byte is written
    for member in members:
        check_relative(member.name, str(archive))
    chosen = [member for member in members if wanted is None or wanted(member.name)]
    if not chosen:
        raise InputError(f"{archive}: holds none of the files that were expected in it")
    check_space(folder, sum(member.size for member in chosen), f"unpacking {archive.name}")
    written: dict[str, str] = {}
    made: set[Path] = set()
    for done, member in enumerate(chosen, start=1):
        path = str(PurePosixPath(member.name))
        # on some disks A.jpg and a.jpg are one file
        if path.lower() in written:
            raise InputError(f"{archive}: member {path!r} comes twice")
        written[path.lower()] = path
        target = folder / path
        _unpack_member(member, target, archive, made)
        if progress is not None and (done % 256 == 0 or done == len(chosen)):
            progress(done, len(chosen))
    return list(written.values())


def _unpack_member(member: _Member, target: Path, archive: Path, made: set[Path]) -> None:
    left = member.size
    try:
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        with member.open() as source, target.open("xb") as stream:
            while data := source.read(CHUNK):
                left -= len(data)
                if left < 0:
                    raise InputError(f"{archive}: member {member.name!r} holds more than it claims")
                stream.write(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise InputError(
            f"{archive}: member {member.name!r} is there already, or its folder is a file"
        ) from None
    if left:
        raise InputError(f"{archive}: member {member.name!r} is cut off")


CHUNK = 1 << 20
TIMEOUT = 60.0
"""Seconds that a server may stay silent."""

ATTEMPTS = 5
"""Tries in a row that brought not one byte, after which it is given up."""

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
        fresh: Whether it came over the network now, or lay there already.
    """

    path: Path
    size: int
    sha256: str
    fresh: bool


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    most: int = MOST_BYTES,
    progress: Callable[[int, int], None] | None = None,
    attempts: int = ATTEMPTS,
    pause: float = 1.0,
    timeout: float = TIMEOUT,
) -> Downloaded:
    """Fetch a file over http or https; proxies are those of the environment.

    What came so far lies in `TARGET.part`, with what the server said about it in `TARGET.part.json`; the next call goes
    on from there if the file is still the same one (`If-Range`), else it starts again. Connections that break, and
    servers that are busy, are tried again with growing pauses.

    Args:
        url: The address. Redirections are followed to http and https alone, and never from https to http.
        target: Where the file goes; a correct one that exists is not fetched again.
        sha256: What its checksum must be.
        size: How many bytes it must have.
        most: Bytes that are taken at most.
        progress: Called with (bytes, all bytes).
        attempts: Tries in a row without a single byte.
        pause: Seconds before the second try, doubled for each further one.
        timeout: Seconds that the server may stay silent.

    Raises:
        InputError: If the address is wrong or not reached, the disk is too small, or what came is not the file that was
            expected; it is deleted then.
    """
    _check_address(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = _Wanted(url, target, sha256, size, most)
    if target.exists():
        return wanted.check_existing(progress)
    failures = 0
    while True:
        before = wanted.have
        try:
            return _fetch(wanted, progress, timeout)
        except _TryAgain as trouble:
            failures = 1 if wanted.have > before else failures + 1
            if failures >= attempts:
                kept = f"; {wanted.have:,} bytes are saved, the same command resumes"
                raise InputError(
                    f"{url}: {trouble} ({failures} times in a row)" + kept * (wanted.have > 0)
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
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url}: not reached ({_reason(error)})") from None
    if len(raw) > most:
        raise InputError(f"{url}: more than {most:,} bytes, this is not the page that was expected")
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


@dataclass(frozen=True)
class _Seen:
    """The server's facts about a partly downloaded file."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        # a weak ETag promises the same meaning, not the same bytes
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _Wanted:
    """One file, what must be true of it, and the part of it that is here."""

    def __init__(
        self,
        url: str,
        target: Path,
        sha256: str | None,
        size: int | None,
        most: int,
    ) -> None:
        self.url, self.target = url, target
        self.sha256, self.size, self.most = sha256, size, most
        self.part = target.with_name(f"{target.name}.part")
        self.state = target.with_name(f"{target.name}.part.json")

    @property
    def have(self) -> int:
        """Bytes that are here."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def seen(self) -> _Seen | None:
        """Return the record of the part file, or None if the download cannot resume from it."""
        try:
            seen = _Seen(**read_json(self.state))
        except (InputError, TypeError):
            return None
        # without a validator of its version, only a checksum can verify the part
        known = seen.validator is not None or self.sha256
        return seen if seen.url == self.url and known and self.have else None

    def note(self, seen: _Seen) -> None:
        write_json(self.state, asdict(seen))

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def fault(self, size: int, sha256: str) -> str | None:
        """Say what is wrong with a file of this size and checksum."""
        if self.size is not None and size != self.size:
            return f"has {size:,} bytes, {self.size:,} were expected"
        if self.sha256 is not None and sha256 != self.sha256.lower():
            return f"its sha256 is {sha256}, {self.sha256.lower()} was expected"
        return None

    def check_existing(self, progress: Callable[[int, int], None] | None) -> Downloaded:
        if not self.target.is_file():
            raise InputError(f"{self.target}: is no file, {self.url} was to go there")
        digest = hashlib.sha256()
        size = _read_into(digest, self.target, progress, self.target.stat().st_size)
        if fault := self.fault(size, digest.hexdigest()):
            raise InputError(
                f"{self.target}: is there already and is not {self.url} ({fault}): move it away"
            )
        return Downloaded(self.target, size, digest.hexdigest(), fresh=False)


def _read_into(
    digest: hashlib._Hash, path: Path, progress: Callable[[int, int], None] | None, total: int
) -> int:
    """Take a file into a digest, which at 20 GB is worth a progress bar too; gives its size."""
    size = 0
    with path.open("rb") as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            size += len(data)
            if progress is not None:
                progress(size, max(total, size))
    return size


def _fetch(
    wanted: _Wanted, progress: Callable[[int, int], None] | None, timeout: float
) -> Downloaded:
    """Try the download once; received bytes stay in the part file."""
    seen = wanted.seen()
    if seen is None:
        wanted.forget()
    headers = {"Range": f"bytes={wanted.have}-"} if seen is not None else {}
    if seen is not None and seen.validator is not None:
        headers["If-Range"] = seen.validator
    try:
        answer = _open(wanted.url, headers, timeout)
    except urllib.error.HTTPError as error:
        return _refused(wanted, error, seen)
    except (OSError, http.client.HTTPException) as error:
        raise _TryAgain(f"not reached ({_reason(error)})") from None
    with answer:
        start = _start(wanted, answer, seen)
        digest = hashlib.sha256()
        total = _total(answer, start)
        _check_announced(wanted, total, start)
        if start:
            _read_into(digest, wanted.part, progress, total or start)
        now = _Seen(wanted.url, answer.headers["ETag"], answer.headers["Last-Modified"], total)
        wanted.note(now)
        with wanted.part.open("ab" if start else "wb") as stream:
            done = _copy(answer, stream, digest, wanted, start, total, progress)
    if total is not None and done < total:
        raise _TryAgain(f"the connection broke after {done:,} of {total:,} bytes")
    return _finish(wanted, done, digest.hexdigest())


def _finish(wanted: _Wanted, size: int, sha256: str) -> Downloaded:
    if fault := wanted.fault(size, sha256):
        wanted.forget()
        raise InputError(
            f"{wanted.url}: {fault}: it was deleted (changed there, or broken on the way)"
        )
    wanted.part.replace(wanted.target)
    wanted.state.unlink(missing_ok=True)
    return Downloaded(wanted.target, size, sha256, fresh=True)


def _refused(wanted: _Wanted, error: urllib.error.HTTPError, seen: _Seen | None) -> Downloaded:
    with contextlib.closing(error):
        if error.code == 416 and seen is not None:
            if seen.total == wanted.have:  # all of it was here, and the last step was not taken
                digest = hashlib.sha256()
                size = _read_into(digest, wanted.part, None, 0)
                return _finish(wanted, size, digest.hexdigest())
            wanted.forget()
            raise _TryAgain("the server has less of the file than is here", wait=0)
        if error.code in _TRY_AGAIN:
            raise _TryAgain(
                f"the server says {error.code} {error.reason}", _retry_after(error.headers)
            )
        raise InputError(
            f"{wanted.url}: the server says {error.code} {error.reason}"
            + ": the file is not there (any more)" * (error.code in (404, 410))
        ) from None


def _start(wanted: _Wanted, answer: _Answer, seen: _Seen | None) -> int:
    """Return how many bytes of the part file the download resumes from."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(f"{wanted.url}: the server sends it packed, though it was asked not to")
    if answer.status != 206 or seen is None:
        return 0
    # "bytes 100-199/200"
    unit, _, rest = (answer.headers["Content-Range"] or "").partition(" ")
    first, total = rest.partition("-")[0], rest.rpartition("/")[2]
    if unit != "bytes" or first != str(wanted.have) or total not in ("*", str(seen.total)):
        wanted.forget()
        raise _TryAgain("the server sent another part than was asked for", wait=0)
    return wanted.have


def _total(answer: _Answer, start: int) -> int | None:
    length = answer.headers["Content-Length"]
    return start + int(length) if length and length.isdecimal() else None


def _check_announced(wanted: _Wanted, total: int | None, start: int) -> None:
    if total is None:
        return
    if wanted.size is not None and total != wanted.size:
        wanted.forget()
        raise InputError(
            f"{wanted.url}: has {total:,} bytes there, {wanted.size:,} were expected: it was changed, "
            "or this is not the file but a page about it"
        )
    if total > wanted.most:
        raise InputError(f"{wanted.url}: has {total:,} bytes, at most {wanted.most:,} are taken")
    check_space(wanted.target.parent, total - start, wanted.target.name)


def _copy(
    answer: _Answer,
    stream: IO[bytes],
    digest: hashlib._Hash,
    wanted: _Wanted,
    done: int,
    total: int | None,
    progress: Callable[[int, int], None] | None,
) -> int:
    most = wanted.most if wanted.size is None else min(wanted.most, wanted.size)
    while True:
        try:
            # what is there, not a full chunk: a slow line shows progress, and a break loses nothing
            data = answer.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(f"the connection broke ({_reason(error)})") from None
        if not data:
            return done
        done += len(data)
        if done > most:
            wanted.forget()
            raise InputError(f"{wanted.url}: sends more than {most:,} bytes, it was given up")
        stream.write(data)
        digest.update(data)
        if progress is not None:
            progress(done, max(total or done, done))


class _Redirect(urllib.request.HTTPRedirectHandler):
    max_redirections = 5
    max_repeats = 2

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise InputError(f"{req.full_url}: leads on to {newurl:.200}, which is refused")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            for name in ("Range", "If-Range"):
                if (value := req.get_header(name.capitalize())) is not None:
                    following.add_header(name, value)
        return following

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        # the standard handler refuses other schemes with an error of its own, before it asks us
        goal = headers.get("location") or headers.get("uri") or ""
        if urlsplit(goal).scheme not in ("", "http", "https"):
            raise InputError(f"{req.full_url}: leads on to {goal:.200}, which is refused")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_Answer = http.client.HTTPResponse


def _open(url: str, headers: dict[str, str], timeout: float) -> _Answer:
    # not build_opener: it also opens file:, ftp: and data:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirect(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(
        url,
        headers={
            "User-Agent": f"mmpoison/{__version__}",
            "Accept-Encoding": "identity",
            **headers,
        },
    )
    try:
        answer: _Answer = opener.open(request, timeout=timeout)
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{url}: leads on to an address that cannot be read") from None
    return answer


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        sound = None
    if not sound:
        raise InputError(f"{url}: not an address of http or https")


def _retry_after(headers: Message) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", None) or error
    return str(inner) or type(inner).__name__
