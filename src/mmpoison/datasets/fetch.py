"""Downloads and builds data sets: bounded downloads with pooch, untrusted zip files, atomic folders."""

from __future__ import annotations

import errno
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from mmpoison._version import __version__
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import atomic_folder, refuse_occupied, write_json
from mmpoison.base.progress import Progress
from mmpoison.base.text import file_size, one_line
from mmpoison.base.untrusted import parse_json
from mmpoison.datasets.catalogue import DATASETS, fit_options
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS
from mmpoison.pairs.builder import check_relative

# -- Lists downloadable data sets, and builds their folders from archives.


LEDGER = "download.json"
"""File of the finished data set that records its downloads with address and checksum."""

MEGABYTE = 1_000_000

GROWS = 20
"""Largest ratio of unpacked to packed size of an archive."""


@dataclass(frozen=True)
class PublicFile:
    """One publicly available file.

    Attributes:
        name: Its name in the cache folder.
        urls: Its addresses, tried in this order.
        about: Its approximate size in bytes, for the disk check and the progress bar. This is also the download limit,
            or half of it for a file without a published checksum.
        sha256: Its published checksum, if there is one.
        wanted: Selects the members to unpack, by name; all by default.
    """

    name: str
    urls: Sequence[str]
    about: int
    sha256: str | None = None
    wanted: Callable[[str], bool] | None = None


def ways_to_get(name: str) -> list[dict[str, str | None]]:
    """Describe how to get a data set, or each part of a combined one.

    Returns:
        For each: `name`; `how`: `made` (generated), `download` (by one command) or `by hand`; the `command` or None;
        the `address` of its web page, or None if generated; and `about`: what the command downloads, or what the folder
        must contain.

    Raises:
        InputError: If there is no such data set.
    """
    ways = []
    for part in DATASETS[name].parts or (name,):
        source = DATASETS[part]
        found = re.search(r"https?://[^\s:,;)]+", source.where_from)
        how, about = "by hand", source.where_from
        if not source.needs_root:
            how, about = "made", ""
        elif source.download:
            how, about = "download", source.download
        ways.append(
            {
                "name": part,
                "how": how,
                "command": None if how == "by hand" else f"mmpoison data build {part} --out DIR",
                "address": found.group() if found and how != "made" else None,
                "about": about,
            }
        )
    return ways


def build_dataset(
    name: str,
    out: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Generate or download a data set.

    Args:
        name: A registered data set that can be generated or downloaded.
        out: New folder.
        seed: Seed for a generated data set.
        progress: Called with (done, total); in megabytes for downloads.
        options: What to make or download, by the options of the set.

    Raises:
        InputError: If it can be neither generated nor downloaded, an option is unknown, `out` is not empty, or a
            download fails.
    """
    source = DATASETS[name]
    if source.build is None:
        raise InputError(f"data set {name!r} cannot be made here: {source.where_from}")
    more = () if source.download else source.options
    fitted = fit_options(options or {}, source.build, f"building {name}", more)
    refuse_occupied(out)
    return source.build(out, seed=seed, progress=progress, **fitted)


def fetch_and_unpack(
    name: str,
    files: Sequence[PublicFile],
    out: Path,
    *,
    keep_archives: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download archives to the cache folder, then unpack them into a new folder.

    Args:
        name: The data set.
        files: Its archives.
        out: New folder. It appears only when complete, with the list of downloads in `download.json`.
        keep_archives: Leave the archives in the cache folder.
        progress: Called with (megabytes, total megabytes); unpacking counts as much as downloading.

    Raises:
        InputError: If `out` is not empty, the disk is too small, or a file is unavailable or not the expected one.
    """
    refuse_occupied(out)
    with open_cache(name) as cache:
        todo = [file for file in files if not (cache / file.name).exists()]
        _check_disk(cache, out, todo, files)
        step = _Steps(sum(file.about for file in files) * 2, progress)
        facts = {file.name: _fetch(file, cache, step.of(file.about)) for file in files}
        with atomic_folder(out) as folder:
            for file in files:
                archive = cache / file.name
                try:
                    unpack(
                        archive,
                        folder,
                        most_bytes=GROWS * archive.stat().st_size + MEGABYTE,
                        wanted=file.wanted,
                        progress=step.of(file.about),
                    )
                except InputError:
                    if file.sha256 is None:  # a web form, or half a file
                        archive.unlink()
                    raise
            write_json(folder / LEDGER, {"files": facts})
        if not keep_archives:
            for file in files:
                (cache / file.name).unlink()
        step.finish()
    return out


def _fetch(file: PublicFile, folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Download a file, unless it exists, and return the facts about it that the data set records.

    Raises:
        InputError: If the file is unavailable, or is not the expected one.
    """
    import pooch

    target, failures = folder / file.name, []
    for url in file.urls:
        try:
            most = file.about * (1 if file.sha256 else 2)
            download(url, target, most=most, sha256=file.sha256, progress=progress)
        except InputError as error:
            failures.append(str(error))
            continue
        found = target.stat()
        return {
            "url": url,
            "size": found.st_size,
            "sha256": file.sha256 or pooch.file_hash(target),
            "checksum": "published" if file.sha256 else "of this download, none is published",
            "fetched": time.strftime("%Y-%m-%d", time.gmtime(found.st_mtime)),
        }
    raise InputError(f"{failures[0]}: try again, or download it yourself to {target}")


@contextmanager
def open_cache(name: str) -> Iterator[Path]:
    """Open the download folder of a data set for one process at a time.

    Raises:
        InputError: If another process is fetching the same set.
    """
    cache = ContentCache()
    key = CacheKey("downloads", {"data": name}, f"downloads of {name}", address=name)

    def give_up(owner: str) -> None:
        raise InputError(f"{cache.path(key)}: {owner} is downloading {name} already")

    with cache.locked(key, give_up) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        cache.describe(key, folder)
        # pooch's name for an unfinished download, left after a kill
        for stray in folder.rglob("tmp????????"):
            stray.unlink()
        yield folder


def _check_disk(
    cache: Path, out: Path, todo: Sequence[PublicFile], files: Sequence[PublicFile]
) -> None:
    """Check before downloading that the disk has space for the archives and their content."""
    there = out
    while not there.exists():
        there = there.parent
    fetched, unpacked = sum(file.about for file in todo), sum(file.about for file in files)
    needs = [(cache, fetched, "the download"), (there, unpacked, "what is unpacked")]
    if there.stat().st_dev == cache.stat().st_dev:
        needs = [(cache, fetched + unpacked, "the download and what it unpacks to")]
    for folder, needed, what in needs:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"{folder}: {what} needs {file_size(needed)}, {file_size(free)} are free: free some space, or use "
                "another disk"
            )


class _Steps:
    """A single progress bar over several jobs of known weight."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = max(1, total // MEGABYTE)
        self._progress = progress
        self._done = 0.0

    def of(self, weight: int) -> Progress | None:
        """Return the callback of the next job."""
        show, before = self._progress, self._done
        self._done += weight / MEGABYTE
        if show is None:
            return None

        def update(done: int, total: int) -> None:
            reached = int(before + min(1.0, done / max(1, total)) * weight / MEGABYTE)
            # `fetch_and_unpack` takes the last step, because it ends the bar
            show(min(reached, self._total - 1), self._total)

        return update

    def finish(self) -> None:
        """End the bar."""
        if self._progress is not None:
            self._progress(self._total, self._total)


# -- Addresses and checksums of publicly available archives.


def _archives(data_set: str) -> dict[str, PublicFile]:
    text = (resources.files(__package__) / "archives.json").read_text("utf-8")
    listed = parse_json(text, "archives.json")
    return {file["name"]: PublicFile(**file) for file in listed[data_set]}


ARCHIVES: Mapping[str, Mapping[str, PublicFile]] = {
    data_set: _archives(data_set) for data_set in ("coco", "visual-genome")
}
"""The archives of each data set, by name."""


def is_jpeg(name: str) -> bool:
    """Check by its name whether an archive member is a photograph."""
    return name.endswith(".jpg")


# -- Downloads one file with a size limit; unpacks an archive.


CHUNK = 1 << 18

TIMEOUT = 60.0
"""Seconds that a server may stay silent."""

RETRIES = 2
"""Retries after a failed first attempt."""


def download(
    url: str,
    target: Path,
    *,
    most: int,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Download a file over http or https, unless it exists. Uses the environment's proxies.

    The file gets its name only when it is complete and its checksum is correct.

    Args:
        url: The address. Redirections never lead from https to http.
        target: Target path. An existing file is kept, unless its checksum is wrong.
        most: Maximum number of bytes to download.
        sha256: Expected checksum.
        progress: Called with (bytes, most).

    Raises:
        InputError: If the address is invalid or unreachable, or the file is not the expected one.
    """
    import pooch
    import requests

    def check(answer: requests.Response, **_: Any) -> None:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise ValueError(f"redirects to {answer.url}, which is not encrypted")
        if (size := int(answer.headers.get("Content-Length", 0))) > most:
            raise ValueError(f"has {size:,} bytes there, but at most {most:,} were expected")

    def fetch(url: str, path: str, _: Any) -> None:
        # pooch creates files that only their owner can read
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
        # urllib3's message, without repeating the address
        reason = getattr(next(iter(error.args), None), "reason", None) or error
        raise InputError(f"{url}: {one_line(str(reason)):.400}") from None


class _Bounded:
    """A file that accepts a limited number of bytes."""

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


# zipfile raises RuntimeError for encrypted members and unknown compression methods
_BROKEN: tuple[type[Exception], ...] = (*TAR_ERRORS, zipfile.BadZipFile, RuntimeError, MemoryError)


def unpack(
    archive: Path,
    folder: Path,
    *,
    most_bytes: int,
    wanted: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
) -> None:
    """Unpack a zip file. Links in it become files.

    Args:
        archive: The file.
        folder: Existing target folder.
        most_bytes: Limit on the total size. A member larger than declared is truncated.
        wanted: Selects the members to unpack, by name; all by default.
        progress: Called with (files, all files).

    Raises:
        InputError: If it is not a zip file, is broken or encrypted, a member would leave the folder, or it exceeds the
            limit.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if wanted is None or wanted(m.filename)]
            if not members:
                raise InputError(f"{archive}: contains none of the expected files")
            if sum(member.file_size for member in members) > most_bytes:
                raise InputError(f"{archive}: over {most_bytes:,} bytes (a decompression bomb?)")
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
        # errors of the unpackers have no errno; a seek to before the start has EINVAL
        if error.errno in (None, errno.EINVAL):
            raise InputError(f"{archive}: broken archive ({error})") from None
        raise
