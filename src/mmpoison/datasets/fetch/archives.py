"""Unpacks archives that are not trusted: nothing leaves the folder, nothing fills the disk."""

from __future__ import annotations

import errno
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mmpoison.base.phrasing import one_line
from mmpoison.datasets.fetch.transfer import check_space
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS, BoundedReader, open_tar, unpacked
from mmpoison.pairs.builder import check_relative

CHUNK = 1 << 20
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
        _copy(member, target, archive, made)
        if progress is not None and (done % 256 == 0 or done == len(chosen)):
            progress(done, len(chosen))
    return list(written.values())


def _copy(member: _Member, target: Path, archive: Path, made: set[Path]) -> None:
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
