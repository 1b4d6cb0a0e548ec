"""Convert a set of pairs from any format to a pairs folder, Parquet or webdataset shards.

The work goes shard by shard. Everything is written into a hidden folder next to the output (`.NAME.convert`), which
knows which shards are finished; the output appears under its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, get_args

from mmpoison._version import __version__
from mmpoison.base.files import (
    DiskFull,
    atomic_file,
    no_room,
    publish_folder,
    refuse_occupied,
    remove_all_dead,
    write_json,
)
from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import parse_json, read_json, read_lines
from mmpoison.datasets.catalogue import (
    DATASETS,
    PathData,
    load_dataset,
    source_of_address,
)
from mmpoison.datasets.formats.shard_writers import (
    Line,
    Target,
    WrittenShards,
    column_kinds,
    part_file,
    write_shard,
)
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images.sources import NameClash, States, file_states, refuse_changed
from mmpoison.pairs.folder import (
    CAPTIONS_FILE,
    MANIFEST_FILE,
    PROBLEMS_FILE,
    ImagePolicy,
    copy_notices,
    count_images,
    rename_images,
    write_data_card,
)
from mmpoison.pairs.labels import label_by_keyword, labels_from_csv, parse_keywords
from mmpoison.pairs.own_columns import Kind
from mmpoison.pairs.table import PairDataset

MAX_IMAGES_IN_SHARD = 10_000
"""img2dataset's keys have four digits for the place in a shard."""


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        out: The new set.
        images: Images in it.
        pairs: Pairs in it.
        shards: Shards it was written in.
        kept_shards: Of these, the ones that an earlier, interrupted conversion had finished.
        left_out: Number of reasons why entries and images could not be used; `problems.txt` names them.
    """

    out: Path
    images: int
    pairs: int
    shards: int
    kept_shards: int
    left_out: int


@dataclass
class _Piece:
    lines: list[Line]
    root: Path
    problems: Sequence[str]
    states: States = field(init=False)

    def __post_init__(self) -> None:
        self.states = file_states(self.root, self.ids)

    @property
    def ids(self) -> list[str]:
        """Ids of its images."""
        return [line["image"] for line in self.lines]


def convert_pairs(
    source: str | Path,
    out: str | Path,
    *,
    to: Target,
    format: str | None = None,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    images: ImagePolicy = "link",
    workers: int | None = None,
    images_per_shard: int = MAX_IMAGES_IN_SHARD,
    labels: str | Path | None = None,
    keywords: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert a set of pairs; a killed conversion resumes when it is called again.

    Args:
        source: Path of the set, the name of a data set that is known (with `$MMPOISON_DATA`), or `hf:org/name`.
        out: New folder.
        to: `pairs-folder`, `parquet` or `webdataset`.
        format: Registered name of the source's format, where it cannot be recognised.
        root: The folder that holds a named data set; for a path, the folder of its images.
        options: Options of the source's format.
        images: `link` and `copy` make a pairs folder with hard links or copies, and put the bytes into the shards of
            the other formats; `none` writes the table alone (a pairs folder, or Parquet with paths).
        workers: Threads, each with a shard of its own; the number of cores by default, at most 8.
        images_per_shard: Images in each shard, at most 10,000.
        labels: CSV file with labels, as `labels_from_csv` takes.
        keywords: Labels by keyword, as `parse_keywords` takes.
        progress: Called with (images done, images in all as far as known).

    Returns:
        Counts. A source that can be read in pieces is never held in memory as a whole, unless it is poisoned or gets
        new labels. A poisoned set stays marked: its manifest is written next to the shards, with the new ids.

    Raises:
        InputError: If the source cannot be read, `out` holds something, another conversion works on it or was begun
            with other settings, the disk is full, or an image of a poisoned set cannot be read.
        NameClash: If two images would get one name in a pairs folder, which only images inside containers can.
    """
    target = Path(out)
    _check_settings(to, images, images_per_shard)
    refuse_occupied(target)
    settings = {
        "tool_version": __version__,
        "source": str(
            Path(source).absolute() if source_of_address(str(source)) is None else source
        ),
        "to": to,
        "format": format,
        "options": {key: str(value) for key, value in sorted((options or {}).items())},
        "root": None if root is None else str(Path(root).absolute()),
        "images": images,
        "images_per_shard": images_per_shard,
        "labels": None if labels is None else str(Path(labels).absolute()),
        "keywords": list(keywords),
    }
    with _work_folder(target, settings) as work:
        whole, pieces, total, own_columns = _read(
            source, to, format, root, options or {}, labels, keywords, images_per_shard
        )
        threads = workers or min(os.cpu_count() or 1, 8)
        poisoned = whole is not None and whole.manifest is not None
        job = _Job(work, to, images, threads, progress, own_columns, total, poisoned)
        try:
            job.run(pieces)
            if whole is not None and whole.tables is not None:
                whole.tables.check()
            job.finish(whole)
        except Exception as error:
            if isinstance(error, DiskFull) or no_room(error) is not None:
                raise DiskFull(
                    f"{target}: the disk is full: make room and repeat the command; finished shards are kept"
                ) from None
            raise
        publish_folder(work / "data", target)
    shutil.rmtree(work, ignore_errors=True)
    return Conversion(target, job.images, job.pairs, job.shards, job.kept, job.left_out)


def _check_settings(to: str, images: str, images_per_shard: int) -> None:
    if to not in get_args(Target):
        raise InputError(f"to {to!r}: one of {', '.join(get_args(Target))} is needed")
    if images not in get_args(ImagePolicy):
        raise InputError(f"images {images!r}: one of {', '.join(get_args(ImagePolicy))} is needed")
    if to == "webdataset" and images == "none":
        raise InputError("images none: shards of webdataset hold their images, choose link or copy")
    if not 1 <= images_per_shard <= MAX_IMAGES_IN_SHARD:
        raise InputError(
            f"images per shard {images_per_shard}: 1 to {MAX_IMAGES_IN_SHARD:,} are possible"
        )


def work_folder(target: Path) -> Path:
    """Return the folder of an unfinished conversion."""
    return target.parent / f".{target.name}.convert"


@contextmanager
def _work_folder(target: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """Lock the hidden folder of a conversion for this process."""
    from filelock import FileLock, Timeout

    work = work_folder(target)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{target}: another conversion is writing it: wait for it") from None
    refused = False
    try:
        file = work / "job.json"
        if file.exists() and read_json(file) != settings:
            if _finished_shards(work):
                raise InputError(
                    f"{work}: an unfinished conversion with other settings: repeat it, or remove that folder"
                )
            shutil.rmtree(work / "data", ignore_errors=True)
        write_json(file, settings)
        for name in ("data", "done"):
            (work / name).mkdir(exist_ok=True)
        remove_all_dead(work)
        yield work
    except InputError:
        # what is refused at once leaves nothing that would be in the way of the next try
        refused = not _finished_shards(work)
        raise
    finally:
        lock.release()
        if refused:
            shutil.rmtree(work, ignore_errors=True)


def _finished_shards(work: Path) -> int:
    return len(list((work / "done").glob("*.json")))


def _read(
    source: str | Path,
    to: Target,
    format: str | None,
    root: str | Path | None,
    options: Mapping[str, Any],
    labels: str | Path | None,
    keywords: Sequence[str],
    images_per_shard: int,
) -> tuple[PairDataset | None, Iterator[_Piece], int | None, dict[str, Kind]]:
    """Read the whole data set if necessary; return it, its pieces, the number of images if known, and own columns."""
    path = Path(source)
    load: Callable[[], PairDataset]
    if path.exists() and (format is not None or str(source) not in DATASETS):
        data = PathData.of(path, format, root, options, switched_on=["own_columns"])
        load = data.load
        if data.source.stream is not None and not (data.poisoned or labels or keywords):
            total = count_images(path) if data.source.name == "pairs-folder" else None
            # all files of a set have one schema, which only the whole set tells
            kinds = column_kinds(data.pieces(images_per_shard)) if to == "parquet" else {}
            pieces = data.pieces(images_per_shard)
            lines = (_Piece(list(p.lines(own_columns=True)), p.root, p.problems) for p in pieces)
            return None, lines, total, kinds
    else:
        load = partial(load_dataset, str(source), root, options=options, format=format)
    with warnings.catch_warnings():
        # what is left out is written to a file here
        warnings.simplefilter("ignore", MmpoisonWarning)
        pairs = load()
    if labels is not None:
        pairs = labels_from_csv(pairs, labels)
    if keywords:
        pairs = label_by_keyword(pairs, parse_keywords(keywords))
    return pairs, _pieces(pairs, images_per_shard), len(pairs.images), column_kinds([pairs])


def _pieces(pairs: PairDataset, images_per_shard: int) -> Iterator[_Piece]:
    lines = pairs.lines(own_columns=True)
    problems = pairs.problems
    while piece := list(islice(lines, images_per_shard)):
        yield _Piece(piece, pairs.root, problems)
        problems = ()


@dataclass
class _Job:
    """One conversion under way, and what it has counted so far."""

    work: Path
    to: Target
    policy: ImagePolicy
    workers: int
    progress: Callable[[int, int], None] | None
    own_columns: dict[str, Kind]
    total: int | None
    poisoned: bool
    images: int = 0
    pairs: int = 0
    shards: int = 0
    kept: int = 0
    left_out: int = 0
    read: int = 0
    new_ids: list[str] = field(default_factory=list)
    root: Path | None = None
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.data = self.work / "data"

    def run(self, pieces: Iterator[_Piece]) -> None:
        """Write every shard that is not finished yet, some at a time, since they wait in memory."""
        with (
            (self.work / PROBLEMS_FILE).open("w", encoding="utf-8") as problems,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            numbered = enumerate(self._sound(pieces, problems))
            while some := list(islice(numbered, self.workers)):
                for (_, piece), written in zip(some, pool.map(self._shard, some), strict=True):
                    self._count(written, len(piece.lines), problems)
        if _finished_shards(self.work) > self.shards:
            self._refuse_changed()
        if not self.images:
            shutil.rmtree(self.work / "done")  # empty shards are not worth going on from
            raise InputError(f"nothing was converted: {self._first_problem()}")
        if self.progress is not None and self.total is None:
            self.progress(self.read, self.read)

    def _sound(self, pieces: Iterator[_Piece], problems: Any) -> Iterator[_Piece]:
        """Note what is left out of the pieces; images of a pairs folder come once."""
        for piece in pieces:
            self.root = piece.root
            self.shards += 1
            for line in piece.problems:
                self._note(line, problems)
            if self.to == "pairs-folder":
                kept = self._once(piece.lines, problems)
                if len(kept) < len(piece.lines):
                    piece = _Piece(kept, piece.root, piece.problems)
            yield piece

    def finish(self, whole: PairDataset | None) -> None:
        """Add what belongs to a set in addition to its shards: lines, manifest, notices, problems."""
        if self.to == "pairs-folder":
            self._join_lines()
        if whole is not None and whole.manifest is not None:
            renamed = rename_images(whole, self.new_ids, self.data)
            assert renamed.manifest is not None
            renamed.manifest.write(self.data / MANIFEST_FILE)
        if self.root is not None:
            copy_notices(self.root, self.data)
        if whole is not None and whole.manifest is not None:
            write_data_card(self.data, whole.manifest, self.pairs)
        if self.left_out:
            shutil.copyfile(self.work / PROBLEMS_FILE, self.data / PROBLEMS_FILE)

    def _shard(self, numbered: tuple[int, _Piece]) -> WrittenShards:
        """Write one shard, or find that an earlier conversion has."""
        number, piece = numbered
        digest = _digest(piece)
        file = self.work / "done" / f"{number:05d}.json"
        if file.exists():
            record = read_json(file)
            if not isinstance(record, dict) or record.pop("digest", None) != digest:
                self._refuse_changed()
            try:
                return WrittenShards(**record, kept=True)
            except TypeError:
                self._refuse_changed()
        written = write_shard(
            self.to, number, piece.lines, piece.root, self.data, self.policy, self.own_columns
        )
        refuse_changed(piece.root, piece.ids, piece.states)
        # behind the shard itself: it says that the shard is whole
        record = {"ids": written.ids, "pairs": written.pairs, "problems": written.problems}
        write_json(file, {"digest": digest, **record})
        return written

    def _refuse_changed(self) -> NoReturn:
        raise InputError(
            f"the source has changed since its conversion was begun: remove {self.work} and convert it again"
        )

    def _count(self, written: WrittenShards, images: int, problems: Any) -> None:
        if self.poisoned and written.problems:
            raise InputError(
                f"{written.problems[0]}: a poisoned set is converted whole or not at all"
            )
        for line in written.problems:
            self._note(line, problems)
        self.images += len(written.ids)
        self.pairs += written.pairs
        self.kept += written.kept
        self.read += images
        if self.poisoned:  # no other set needs to know where each image went
            self.new_ids += written.ids
        if self.progress is not None:
            # of a stream nobody knows the length: there is at least one image more
            self.progress(self.read, self.read + 1 if self.total is None else self.total)

    def _once(self, lines: list[Line], problems: Any) -> list[Line]:
        """Drop lines whose images an earlier piece had already; a stream does not know its earlier pieces."""
        kept: list[Line] = []
        for line in lines:
            if line["image"] in self.seen:
                self._note(f"image {line['image']!r} occurs twice, in distant rows", problems)
            else:
                self.seen.add(line["image"])
                kept.append(line)
        return kept

    def _note(self, line: str, problems: Any) -> None:
        self.left_out += 1
        problems.write(one_line(line) + "\n")

    def _first_problem(self) -> str:
        lines = read_lines(self.work / PROBLEMS_FILE)
        return next(lines, "").strip() or "it holds no image"

    def _join_lines(self) -> None:
        seen: set[str] = set()
        # where "A.jpg" and "a.jpg" are one file
        folds = (self.data.parent / self.data.name.upper()).exists()
        with (
            atomic_file(self.data / CAPTIONS_FILE) as temporary,
            temporary.open("w", encoding="utf-8") as out,
        ):
            for number in range(self.shards):
                part = part_file(self.data, number)
                for text in read_lines(part):
                    line = parse_json(text, part)
                    if not isinstance(line, dict) or not isinstance(line.get("image"), str):
                        self._refuse_changed()
                    name = line["image"]
                    key = name.casefold() if folds else name
                    if key in seen:
                        raise NameClash(
                            f"two images of the source would be called {name!r}: rename one of them"
                        )
                    seen.add(key)
                    out.write(text)


def _digest(piece: _Piece) -> str:
    digest = hashlib.sha256(str(piece.root.absolute()).encode())
    for line in piece.lines:
        digest.update(json.dumps(line).encode() + b"\n")
    digest.update(piece.states.tobytes())
    return digest.hexdigest()
