"""Downloads and builds data sets: what a build is, and the published ones."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import atomic_folder, refuse_occupied, write_json
from mmpoison.base.phrasing import file_size
from mmpoison.base.progress import Progress
from mmpoison.base.untrusted import parse_json, read_json
from mmpoison.datasets.catalogue import DATASETS
from mmpoison.datasets.fetch.transfer import download, unpack
from mmpoison.datasets.options import fit_options
from mmpoison.errors import InputError

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
        about: Its size in bytes as far as known, for the disk and the progress bar; up to twice as many are taken.
        size: Its size where it is published together with a checksum; no more bytes are taken.
        sha256: Its published checksum; without one the first download is trusted and later ones must equal it.
        wanted: Which members are unpacked, by name; all by default.
    """

    name: str
    urls: Sequence[str]
    about: int
    size: int | None = None
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
                    most=file.size or 2 * file.about,
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
                f" (if it was changed there for good, delete its entry in {self.folder / LEDGER})"
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
    if there.stat().st_dev == cache.stat().st_dev:
        _check_space(cache, fetched + unpacked, "the download and what it unpacks to")
    else:
        _check_space(cache, fetched, "the download")
        _check_space(there, unpacked, "what is unpacked")


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {what} needs {file_size(needed)}, {file_size(free)} are free: make room or choose another disk"
        )


class _Steps:
    """One progress bar over several jobs of known weight."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = max(1, total // MEGABYTE)
        self._progress = progress
        self._done = 0.0

    def of(self, weight: int) -> Progress:
        """Return the callback of the next job."""
        before = self._done
        self._done += weight / MEGABYTE

        def update(done: int, total: int) -> None:
            if self._progress is not None:
                share = min(1.0, done / total) if total else 1.0
                # the last step is taken by `finish` alone, because it ends the bar
                reached = int(before + share * weight / MEGABYTE)
                self._progress(min(reached, self._total - 1), self._total)

        return update

    def finish(self) -> None:
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
