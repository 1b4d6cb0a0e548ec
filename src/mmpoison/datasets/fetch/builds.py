"""Downloads and builds data sets: what a build is, and the published ones."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urljoin

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import atomic_folder, refuse_occupied, write_json
from mmpoison.base.registry import Registry
from mmpoison.base.untrusted import read_json
from mmpoison.datasets.catalogue import DATASETS, Progress
from mmpoison.datasets.fetch.transfer import Downloaded, check_space, download, read_page, unpack
from mmpoison.datasets.options import fit_options, one_of, option_kinds
from mmpoison.datasets.published.coco import PARTS, YEARS
from mmpoison.datasets.published.flickr_pascal import PAGE_FILES, load_pascal_sentences
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.splits import FrozenSplit, image_name, shipped_split
from mmpoison.pairs.table import PairDataset

# -- Lists the data sets that can be downloaded, and builds their folders from archives.


LEDGER = "download.json"
"""What was fetched, from where, with its checksum; in the cache folder and in the finished data set."""

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class PublicFile:
    """One file that anyone may fetch.

    Attributes:
        name: Its name in the cache folder.
        urls: Its addresses, tried in this order.
        about: Its size in bytes as far as known, for the disk and the progress bar.
        size: Its size where it is published together with a checksum.
        sha256: Its published checksum; without one the first download is trusted and later ones must equal it.
        wanted: Which members are unpacked, by name; all by default.
        grows: How many times larger it may get when it is unpacked.
    """

    name: str
    urls: Sequence[str]
    about: int
    size: int | None = None
    sha256: str | None = None
    wanted: Callable[[str], bool] | None = None
    grows: int = 20


@dataclass(frozen=True)
class Download:
    """The description of how one data set is downloaded.

    Attributes:
        name: The data set's registered name.
        build: `build(out, seed, progress, **options)` fetches it into a new folder in a layout that the data set reads.
        summary: What is fetched, in one line.
    """

    name: str
    build: Callable[..., Path]
    summary: str

    @property
    def options(self) -> tuple[str, ...]:
        """What `build` can be asked for."""
        return tuple(option_kinds(self.build))


DOWNLOADS: Registry[Download] = Registry("download", "mmpoison.datasets")


@dataclass(frozen=True)
class Way:
    """A way to get a data set onto this machine.

    Attributes:
        name: The data set; a derived one has a way for each that it is made of.
        how: `made` here, `download` by one command, or `by hand`.
        command: The command, or None.
        address: Where a person finds it, or None where it is made here.
        about: What the command fetches, or what the folder has to hold.
    """

    name: str
    how: Literal["made", "download", "by hand"]
    command: str | None
    address: str | None
    about: str


def ways_to_get(name: str) -> list[Way]:
    """Say how to get a data set, or each part of a combined one, onto this machine.

    Raises:
        InputError: If there is no such data set.
    """
    source = DATASETS[name]
    ways = []
    for part in source.parts or (name,):
        where = DATASETS[part].where_from
        found = re.search(r"https?://[^\s:,;)]+", where)
        address = found.group() if found else None
        command = f"mmpoison data build {part} --out DIR"
        if not DATASETS[part].needs_root:
            ways.append(Way(part, "made", command, None, ""))
        elif part in DOWNLOADS:
            ways.append(Way(part, "download", command, address, DOWNLOADS[part].summary))
        else:
            ways.append(Way(part, "by hand", None, address, where))
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
        seed: Seed of data that are made.
        progress: Called with (done, all); for a download in megabytes.
        options: What to make or download, by the options of the set.

    Raises:
        InputError: If it can be neither made nor fetched, an option is unknown, `out` holds something, or a download
            fails.
    """
    source = DATASETS[name]
    build = source.build or (DOWNLOADS[name].build if name in DOWNLOADS else None)
    if build is None:
        raise InputError(f"data set {name!r} cannot be made here: {source.where_from}")
    fitted = fit_options(
        options or {}, build, f"building {name}", source.options if source.build else ()
    )
    refuse_occupied(out)
    return build(out, seed=seed, progress=progress, **fitted)


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
        archives: list[tuple[PublicFile, Downloaded]] = []
        for file in files:
            archives.append((file, cache.fetch(file, step.of(file.about))))
        with atomic_folder(out) as folder:
            for file, got in archives:
                try:
                    unpack(
                        got.path,
                        folder,
                        most_bytes=file.grows * got.size + MEGABYTE,
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
            for _, got in archives:
                got.path.unlink(missing_ok=True)
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

    def fetch(self, file: PublicFile, progress: Progress | None = None, **how: Any) -> Downloaded:
        """Fetch a file, or find that it is here; its checksum must be the published one, or that of the first time.

        Raises:
            InputError: If it cannot be had, or is not the file that was expected.
        """
        known = self.ledger.get(file.name, {})
        expected = file.sha256 or known.get("sha256")
        first_error: InputError | None = None
        for url in file.urls:
            try:
                got = download(
                    url,
                    self.folder / file.name,
                    sha256=expected,
                    size=file.size,
                    progress=progress,
                    **how,
                )
            except InputError as error:
                first_error = first_error or error
                continue
            self._note(file, url, got, known)
            return got
        assert first_error is not None, "a file without an address"
        if file.sha256 is None and "sha256 is" in str(first_error):
            raise InputError(
                f"{first_error}; the checksum is that of the first download, noted in {self.folder / LEDGER}: "
                "delete its entry if the file was changed there for good"
            ) from None
        raise first_error

    def distrust(self, file: PublicFile) -> None:
        """Forget a first download that turned out not to be what it should be; one that is vouched for stays."""
        if file.sha256 is None and file.name not in self.trusted:
            (self.folder / file.name).unlink(missing_ok=True)
            self.ledger.pop(file.name, None)

    def save(self) -> None:
        """Write down what was fetched, when it has proved to be what it should be."""
        self.trusted = frozenset(self.ledger)
        write_json(self.folder / LEDGER, {"files": self.ledger})

    def write(self, folder: Path, names: Sequence[str]) -> None:
        """Write what is known of some files into a folder."""
        write_json(folder / LEDGER, {"files": {name: self.ledger[name] for name in names}})

    def _note(self, file: PublicFile, url: str, got: Downloaded, known: Mapping[str, Any]) -> None:
        if known.get("sha256") == got.sha256:
            return
        self.ledger[file.name] = {
            "url": url,
            "size": got.size,
            "sha256": got.sha256,
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
        check_space(cache, fetched + unpacked, "the download and what it unpacks to")
    else:
        check_space(cache, fetched, "the download")
        check_space(there, unpacked, "what is unpacked")


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


# -- Addresses and checksums of the data sets that anyone may fetch, and how each is built.


def _archives(data_set: str) -> dict[str, PublicFile]:
    listed = json.loads((resources.files(__package__) / "archives.json").read_text("utf-8"))
    return {file["name"]: PublicFile(**file) for file in listed[data_set]}


ARCHIVES: Mapping[str, Mapping[str, PublicFile]] = {
    data_set: _archives(data_set) for data_set in ("coco", "visual-genome")
}
"""The archives of each data set by name."""


def _is_jpeg(name: str) -> bool:
    return name.endswith(".jpg")


# -- COCO ------------------------------------------------------------------------------------------


def coco_files(year: int, parts: Sequence[str], images: bool) -> list[PublicFile]:
    """List the downloads for a part of COCO, the annotations first because they are small."""
    captions = {
        f"annotations/{kind}_{part}{year}.json"
        for kind in ("captions", "instances")
        for part in parts
    }
    annotations = f"annotations_trainval{year}.zip"
    names = [annotations, *(f"{part}{year}.zip" for part in parts if images)]
    return [
        replace(
            ARCHIVES["coco"][name],
            wanted=captions.__contains__ if name == annotations else _is_jpeg,
        )
        for name in names
    ]


def build_coco(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    year: int | str = 2014,
    parts: str = "both",
    images: bool = True,
    keep_archives: bool = False,
) -> Path:
    """Fetch COCO: 20 GB for 2014, 1 GB for the val part of 2017.

    Args:
        out: New folder.
        seed: Not used.
        progress: Called with (megabytes, all megabytes).
        year: 2014 (the paper's) or 2017.
        parts: `train`, `val` or `both`.
        images: Whether the photographs are fetched, or captions and objects alone (0.25 GB).
        keep_archives: Leave the zip files in the cache folder.

    Raises:
        InputError: If an option is wrong, the disk is too small or a file cannot be had.
    """
    one_of("year", year, (*YEARS, *map(str, YEARS)))
    one_of("parts", parts, (*PARTS, "both"))
    chosen = PARTS if parts == "both" else (parts,)
    files = coco_files(int(year), chosen, images)
    return fetch_and_unpack("coco", files, out, keep_archives=keep_archives, progress=progress)


# -- Visual Genome ---------------------------------------------------------------------------------


def build_visual_genome(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    images: bool = True,
    keep_archives: bool = False,
) -> Path:
    """Fetch Visual Genome: 15 GB, or 0.13 GB without its photographs.

    Args:
        out: New folder.
        seed: Not used.
        progress: Called with (megabytes, all megabytes).
        images: Whether the photographs are fetched, or the descriptions of their regions alone.
        keep_archives: Leave the zip files in the cache folder.

    Raises:
        InputError: If the disk is too small or a file cannot be had.
    """
    files = [
        replace(
            file, wanted=_is_jpeg if name.startswith("images") else name.removesuffix(".zip").__eq__
        )
        for name, file in ARCHIVES["visual-genome"].items()
        if images or not name.startswith("images")
    ]
    return fetch_and_unpack(
        "visual-genome", files, out, keep_archives=keep_archives, progress=progress
    )


# -- PASCAL Sentences ------------------------------------------------------------------------------

PASCAL_PAGE = "http://vision.cs.uiuc.edu/pascal-sentences/"

PASCAL_CAPTIONS = "4a71f29afa2df6e4c32702a589cb3454d926d5363efff1e8f5bc3659148c5e1a"
"""sha256 of the captions of all 1,000 images (`captions_digest`) in a copy that was made when the page was up."""

MOST_PHOTO = 8 << 20


def build_pascal_sentences(
    out: Path, seed: int = 0, progress: Progress | None = None, *, page: str = PASCAL_PAGE
) -> Path:
    """Fetch PASCAL Sentences from the page of its authors, which is not always up: 1,000 photographs, 80 MB.

    No checksum is published. Names, classes and captions are compared with those that the package knows; the
    photographs are trusted at their first download.

    Args:
        out: New folder: the page and its images by class.
        seed: Not used.
        progress: Called with (images, all images).
        page: Address of the page, or of a copy of it.

    Raises:
        InputError: If the page is not reached or is another one, or a photograph cannot be had.
    """
    refuse_occupied(out)
    text = read_page(page)
    published = shipped_split("pascal-sentences")
    with open_cache("pascal-sentences") as cache, atomic_folder(out) as folder:
        (folder / PAGE_FILES[0]).write_text(text, encoding="utf-8")
        for label in set(published.labels.values()):
            # the folders by which the page is recognised
            (folder / str(label)).mkdir()
        pairs = load_pascal_sentences(folder, missing="keep")
        _compare_pascal(pairs, published, page)
        names = [str(image_id) for image_id in pairs.images.ids]
        for done, name in enumerate(names, start=1):
            (cache.folder / name).parent.mkdir(exist_ok=True)
            photo = PublicFile(name, (urljoin(page, quote(name)),), about=0)
            got = cache.fetch(photo, most=MOST_PHOTO)
            with got.path.open("rb") as stream:
                jpeg = stream.read(2) == b"\xff\xd8"
            if not jpeg:
                cache.distrust(photo)
                raise InputError(f"{photo.urls[0]}: what comes from there is no photograph")
            if progress is not None:
                progress(done, len(names))
        cache.save()
        # only now, so that an interrupted build can resume
        for name in names:
            shutil.move(cache.folder / name, folder / name)
        cache.write(folder, names)
    return out


def captions_digest(pairs: PairDataset) -> str:
    """sha256 over the file name and the sorted captions of every image; white space does not count."""
    digest = hashlib.sha256()
    lines = [
        [image_name(line["image"]), sorted(" ".join(text.split()) for text in line["captions"])]
        for line in pairs.lines()
    ]
    for line in sorted(lines):
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def _compare_pascal(pairs: PairDataset, published: FrozenSplit, page: str) -> None:
    own = FrozenSplit.of(pairs, "pascal-sentences", "name")
    if own.labels != published.labels:
        both = [name for name, label in own.labels.items() if published.labels.get(name) == label]
        raise InputError(
            f"{page}: shows {len(own.labels):,} images, of which {len(both):,} are those of PASCAL Sentences with "
            f"their class; all {len(published.labels):,} were expected: this is another page"
        )
    if captions_digest(pairs) != PASCAL_CAPTIONS:
        warnings.warn(
            f"{page}: its captions are not quite those of the copy that the package knows",
            MmpoisonWarning,
            stacklevel=2,
        )


for _download in (
    Download("coco", build_coco, "images and annotations of 2014 or 2017; 1 to 20 GB"),
    Download("visual-genome", build_visual_genome, "images and region descriptions; 15 GB"),
    Download("pascal-sentences", build_pascal_sentences, "the authors' page and its images"),
):
    DOWNLOADS.register(_download.name)(_download)
