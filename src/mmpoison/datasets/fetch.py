"""Downloads and builds data sets: bounded downloads with pooch, zip files that are not trusted, whole folders."""

from __future__ import annotations

import errno
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

from mmpoison._version import __version__
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import atomic_folder, refuse_occupied, write_json
from mmpoison.base.phrasing import file_size, one_line
from mmpoison.base.progress import Progress
from mmpoison.base.untrusted import parse_json, read_json
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.datasets.options import fit_options
from mmpoison.errors import InputError
from mmpoison.images.containers import TAR_ERRORS
from mmpoison.pairs.builder import check_relative

# -- Lists the data sets that can be downloaded, and builds their folders from archives.


LEDGER = "download.json"
"""What was fetched, from where, with its checksum; in the cache folder and in the finished data set."""

MEGABYTE = 1_000_000

GROWS = 20
"""How many times larger an archive may get when it is unpacked."""


@dataclass(frozen=True)
class PublicFile:
    """One file that anyone may fetch.

    Attributes:
        name: Its name in the cache folder.
        urls: Its addresses, tried in this order.
        about: Its size in bytes, for the disk and the progress bar. No more are taken of a file with a published
            checksum, up to twice as many of another.
        sha256: Its published checksum; without one the first download is trusted and later ones must equal it.
        wanted: Which members are unpacked, by name; all by default.
    """

    name: str
    urls: Sequence[str]
    about: int
    sha256: str | None = None
    wanted: Callable[[str], bool] | None = None


def ways_to_get(name: str) -> list[dict[str, str | None]]:
    """Say how to get a data set, or each part of a combined one, onto this machine.

    Returns:
        For each: `name`; `how`: `made` here, `download` by one command, or `by hand`; the `command`, or None; the
        `address` where a person finds it, or None where it is made here; and `about`: what the command fetches, or
        what the folder has to hold.

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
    """Make or download a data set.

    Args:
        name: A registered data set that is made here or may be downloaded.
        out: New folder.
        seed: Seed of a generated data set.
        progress: Called with (done, all); for a download in megabytes.
        options: What to make or download, by the options of the set.

    Raises:
        InputError: If it can be neither made nor fetched, an option is unknown, `out` holds something, or a download
            fails.
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
    """Fetch archives into the cache folder, then unpack them into a new folder.

    Args:
        name: The data set.
        files: Its archives.
        out: New folder; it appears only when everything is in it, with what was fetched in `download.json`.
        keep_archives: Leave the archives in the cache folder.
        progress: Called with (megabytes, all megabytes); unpacking counts as much as fetching.

    Raises:
        InputError: If `out` holds something, the disk is too small, or a file cannot be had or is not the one expected.
    """
    refuse_occupied(out)
    with open_cache(name) as cache:
        todo = [file for file in files if not (cache.folder / file.name).exists()]
        _check_disk(cache.folder, out, todo, files)
        step = _Steps(sum(file.about for file in files) * 2, progress)
        archives = [(file, cache.fetch(file, step.of(file.about))) for file in files]
        with atomic_folder(out) as folder:
            for file, archive in archives:
                try:
                    unpack(
                        archive,
                        folder,
                        most_bytes=GROWS * archive.stat().st_size + MEGABYTE,
                        wanted=file.wanted,
                        progress=step.of(file.about),
                    )
                except InputError:
                    # a page with a form, or half a file: it must not be what later ones are compared with
                    cache.distrust(file)
                    raise
            cache.write(folder, [file.name for file in files])
        cache.save()
        if not keep_archives:
            for _, archive in archives:
                archive.unlink(missing_ok=True)
        step.finish()
    return out


@dataclass
class DownloadCache:
    """The folder of one data set's downloads, and the list of what was ever fetched into it.

    Attributes:
        folder: Where files lie while they are fetched and until they are unpacked.
        ledger: What is known of each file: address, size, sha256 and whether the checksum was published.
        trusted: Names of the files that were unpacked before with these checksums.
    """

    folder: Path
    ledger: dict[str, dict[str, Any]] = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()

    def fetch(self, file: PublicFile, progress: Progress | None = None) -> Path:
        """Fetch a file, or find that it is here; its checksum must be the published one, or that of the first time.

        Raises:
            InputError: If it cannot be had, or is not the file that was expected.
        """
        target = self.folder / file.name
        known = self.ledger.get(file.name, {}).get("sha256")
        failures = []
        for url in file.urls:
            try:
                download(
                    url,
                    target,
                    most=file.about * (1 if file.sha256 else 2),
                    sha256=file.sha256 or known,
                    progress=progress,
                )
            except InputError as error:
                failures.append(str(error))
                continue
            self._note(file, url, known)
            return target
        advice = f"try again, or download it by hand to {target}"
        if known and file.sha256 is None:
            advice += (
                f" (if it changed there permanently, delete its entry in {self.folder / LEDGER})"
            )
        raise InputError(f"{failures[0]}: {advice}")

    def distrust(self, file: PublicFile) -> None:
        """Delete a first download that turned out not to be what it should be; one that is vouched for stays."""
        if file.sha256 is None and file.name not in self.trusted:
            (self.folder / file.name).unlink()

    def save(self) -> None:
        """Write down what was fetched, when it has proved to be what it should be."""
        write_json(self.folder / LEDGER, {"files": self.ledger})

    def write(self, folder: Path, names: Sequence[str]) -> None:
        """Write what is known of some files into a folder."""
        write_json(folder / LEDGER, {"files": {name: self.ledger[name] for name in names}})

    def _note(self, file: PublicFile, url: str, known: str | None) -> None:
        import pooch

        path = self.folder / file.name
        sha256 = file.sha256 or known or pooch.file_hash(path)
        if known == sha256:
            return
        self.ledger[file.name] = {
            "url": url,
            "size": path.stat().st_size,
            "sha256": sha256,
            "checksum": "published" if file.sha256 else "of the first download, none is published",
            "fetched": time.strftime("%Y-%m-%d", time.gmtime()),
        }


@contextmanager
def open_cache(name: str) -> Iterator[DownloadCache]:
    """Open the download folder of a data set for one process at a time.

    Raises:
        InputError: If another process is fetching the same set, or the list in the folder is broken.
    """
    cache = ContentCache()
    key = CacheKey("downloads", {"data": name}, f"downloads of {name}", address=name)

    def give_up(owner: str) -> None:
        raise InputError(f"{cache.path(key)}: {owner} is downloading {name} already")

    with cache.locked(key, give_up) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        cache.describe(key, folder)
        # pooch's name for a file that it is fetching: it was killed
        for stray in folder.rglob("tmp????????"):
            stray.unlink()
        ledger: Any = {}
        if (folder / LEDGER).exists():
            ledger = read_json(folder / LEDGER)
            ledger = ledger.get("files") if isinstance(ledger, dict) else None
            if not isinstance(ledger, dict) or not all(
                isinstance(entry, dict) for entry in ledger.values()
            ):
                raise InputError(f"{folder / LEDGER}: not a list of downloads: delete it")
        yield DownloadCache(folder, ledger, frozenset(ledger))


def _check_disk(
    cache: Path, out: Path, todo: Sequence[PublicFile], files: Sequence[PublicFile]
) -> None:
    """Before the first byte is fetched: is there room for the archives and for what is in them?"""
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
    """One progress bar over several jobs of known weight."""

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
            # the last step is taken by `fetch_and_unpack`, because it ends the bar
            show(min(reached, self._total - 1), self._total)

        return update

    def finish(self) -> None:
        """End the bar."""
        if self._progress is not None:
            self._progress(self._total, self._total)


# -- Addresses and checksums of the archives that anyone may fetch.


def _archives(data_set: str) -> dict[str, PublicFile]:
    text = (resources.files(__package__) / "archives.json").read_text("utf-8")
    listed = parse_json(text, "archives.json")
    return {file["name"]: PublicFile(**file) for file in listed[data_set]}


ARCHIVES: Mapping[str, Mapping[str, PublicFile]] = {
    data_set: _archives(data_set) for data_set in ("coco", "visual-genome")
}
"""The archives of each data set by name."""


def is_jpeg(name: str) -> bool:
    """Return whether a member of an archive is a photograph by its name."""
    return name.endswith(".jpg")


# -- Downloads one file, of bounded size; unpacks an archive.


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
