"""Decodes a data set's images: few into memory, many into a memory-mapped file.

The file is an entry of the content cache, created once and shared by runs and processes. Its key contains everything
its pixels depend on, so it is never stale: different or changed images have another entry. Unlike other entries it
grows in place: `states.u8` records which rows are decoded, so a killed run loses little.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import CacheEntry, CacheKey, ContentCache, code_version, touch
from mmpoison.base.files import DiskFull, no_room
from mmpoison.base.progress import Progress
from mmpoison.base.text import count_of, file_size
from mmpoison.base.untrusted import parse_json
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, decode_images
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import ImageSet, IntArray, States, file_states, refuse_changed

IN_MEMORY = 128 * 2**20
"""Maximum number of bytes of pixels decoded in memory: this takes seconds, and a file per small set would not help."""

CHUNK = 32 * 2**20
"""Bytes of pixels decoded before they are marked as done; a killed run loses at most two such chunks."""

KIND = "images"
TODO, DONE, BROKEN = 0, 1, 2

# do not store faults that may disappear although the file stays the same
PASSING = ("missing", "no-access", "no-memory")


@dataclass(frozen=True)
class PixelStore:
    """Decoded images of a data set, addressed by the data set's image index.

    It can be sent to other processes, which reopen a file instead of copying it.

    Attributes:
        pixels: Shape `(n, size, size, 3)`, uint8; read-only if in a file.
        position: Row of `pixels` for each image of the table, -1 if not decoded, shape `(I,)`.
        preparation: How the images were resized and cropped.
        broken: What is wrong with each unreadable image, by id; empty unless these are to be dropped.
        folder: Folder of the pixels on disk, or None.
        passing: Ids of broken images that may be readable another time although no file changes.
    """

    pixels: Pixels
    position: IntArray
    preparation: Preparation
    broken: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    passing: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.preparation.image_size

    @classmethod
    def decode(
        cls,
        pairs: ImageSet,
        preparation: Preparation | int,
        *,
        indices: IntArray | None = None,
        broken: Literal["raise", "drop"] = "raise",
        workers: int | None = None,
        progress: Progress | None = None,
        cache: Path | None = None,
        in_memory: int = IN_MEMORY,
    ) -> PixelStore:
        """Decode images, each once, or open images decoded by an earlier run.

        Args:
            pairs: The set, whose whole image table can be addressed.
            preparation: How to resize and crop images; a number means CLIP's preprocessing with this side in pixels.
            indices: Images to decode; all by default. Row `k` of the pixels is image `indices[k]`.
            broken: With `raise`, an unreadable image raises. With `drop`, it has no position and is listed in `broken`,
                and the caller must drop its pairs.
            workers: Threads; the number of cores by default.
            progress: Called with (done, total).
            cache: Folder of a content cache; the default cache by default.
            in_memory: Maximum size, in bytes of pixels, of a store without a file.

        Raises:
            InputError: If images are unreadable (the message counts them and names the first) or change meanwhile, or
                the disk is too small.
        """
        if broken not in ("raise", "drop"):
            raise InputError(f"broken={broken!r}: must be raise or drop")
        preparation = Preparation.of(preparation)
        wanted = np.arange(len(pairs.images), dtype=np.int32) if indices is None else indices
        position = np.full(len(pairs.images), -1, dtype=np.int32)
        position[wanted] = np.arange(len(wanted), dtype=np.int32)
        ids = [str(image_id) for image_id in pairs.images.ids[wanted]]
        folder: Path | None = None
        before = file_states(pairs.root, ids)
        if len(ids) * _row_bytes(preparation.image_size) <= in_memory:
            pixels, faults = decode_images(
                pairs.root, ids, preparation, workers=workers, progress=progress
            )
            refuse_changed(pairs.root, ids, before)
            reasons = {row: str(error) for row, error in faults.items()}
            passing = {row for row, error in faults.items() if error.fault in PASSING}
        else:
            entry = _PixelEntry(ContentCache(cache), pairs.root, ids, before, preparation)
            folder = entry.folder
            reasons, passing = entry.make(workers, progress)
            pixels = _open(folder, len(ids), preparation.image_size)
        if reasons and broken == "raise":
            count = f"{len(reasons):,} of {count_of(len(ids), 'image')} cannot be read"
            raise InputError(
                f"{count}, the first: {min(reasons.values())} (`mmpoison data verify` names them all; repair them or "
                "take them out of the data)"
            )
        position[wanted[list(reasons)]] = -1
        named = {ids[row]: reason for row, reason in reasons.items()}
        return cls(
            pixels, position, preparation, named, folder, frozenset(ids[row] for row in passing)
        )

    def take(self, indices: IntArray) -> Pixels:
        """Copy the pixels of the images at `indices`, shape `(n, size, size, 3)`.

        Raises:
            InputError: If one of them was not decoded.
        """
        rows = self.position[indices]
        if rows.size and rows.min() < 0:
            raise InputError(f"image {int(indices[rows.argmin()])} was not decoded")
        return np.asarray(self.pixels[rows])

    def __getstate__(self) -> dict[str, Any]:
        # a file is reopened, not copied
        return self.__dict__ | ({} if self.folder is None else {"pixels": len(self.pixels)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if (folder := state["folder"]) is not None:
            state["pixels"] = _open(folder, state["pixels"], state["preparation"].image_size)
        self.__dict__.update(state)


def stored_pixels(cache: Path | None = None) -> list[CacheEntry]:
    """List all stored pixels on this machine, largest first. Any of them may be deleted.

    Each `note` contains the `root` of its images, the number of `images`, and their `size` in pixels.
    """
    noted = {"root", "images", "size"}
    found = ContentCache(cache).entries(KIND)
    sound = (entry for entry in found if noted <= set(entry.about.get("note") or ()))
    return sorted(sound, key=lambda entry: -entry.bytes)


# -- the file --------------------------------------------------------------------------------------


def _row_bytes(size: int) -> int:
    return size * size * 3


class _PixelEntry:
    """The content cache entry with the pixels of some images.

    Args:
        cache: The cache.
        root: Folder of the images.
        ids: Relative paths; row `k` of the pixels is image `ids[k]`.
        before: The states of their files (`file_states`), shape `(n,)`.
        preparation: How to resize and crop them.
    """

    def __init__(
        self,
        cache: ContentCache,
        root: Path,
        ids: Sequence[str],
        before: States,
        preparation: Preparation,
    ) -> None:
        self.cache, self.root, self.ids = cache, root, ids
        self.before, self.preparation = before, preparation
        self.count, self.size = len(ids), preparation.image_size
        files = hashlib.sha256("\0".join(ids).encode("utf-8", "surrogateescape"))
        files.update(before.tobytes())
        real = str(root.resolve())
        self.key = CacheKey(
            KIND,
            {
                "computed": code_version(),
                "preparation": str(preparation),
                "root": real,
                "files": files.hexdigest(),
            },
            f"pixels of {root.name}",
            {"root": real, "images": self.count, "size": self.size},
        )
        self.folder = cache.path(self.key)

    def states(self) -> npt.NDArray[np.uint8] | None:
        """Return TODO, DONE or BROKEN for each row, or None if there is no valid store."""
        try:
            states = np.frombuffer((self.folder / "states.u8").read_bytes(), dtype=np.uint8)
            if (self.folder / "pixels.u8").stat().st_size != self.count * _row_bytes(self.size):
                return None
        except OSError:
            return None
        sound = len(states) == self.count and states.max(initial=0) <= BROKEN
        return states if sound else None

    def make(
        self, workers: int | None, progress: Progress | None
    ) -> tuple[dict[int, str], set[int]]:
        """Decode the remaining images; return the problems of broken images by row, and which may disappear."""
        states = self.states()
        if states is not None and states.all():
            touch(self.folder)
            return _reasons(self.folder, states), set()

        def on_wait(_: str) -> None:
            now = self.states()
            if progress is not None and now is not None:
                # never all: the code below finishes the bar after the last one
                progress(min(int(np.count_nonzero(now)), self.count - 1), self.count)

        try:
            with self.cache.locked(self.key, on_wait):
                states = self.states()
                if states is None:
                    states = self._lay_out()
                passing = self._fill(states, workers, progress)
                states = self.states()
                assert states is not None
                touch(self.folder)
        except OSError as error:
            if no_room(error) is not None:
                needed = file_size(self.count * _row_bytes(self.size))
                raise DiskFull(
                    f"{self.folder.parent}: the disk is full ({needed} are needed for the decoded images): free some "
                    "space, or set MMPOISON_CACHE to a folder on another disk; decoded images stay cached"
                ) from None
            raise InputError(
                f"{error.filename or self.folder}: decoded images cannot be cached there ({error.strerror or error}): "
                "set MMPOISON_CACHE to a writable folder"
            ) from None
        return dict(sorted({**_reasons(self.folder, states), **passing}.items())), set(passing)

    def _lay_out(self) -> npt.NDArray[np.uint8]:
        """Create an empty store. `states.u8` is written last, so a killed attempt starts over."""
        folder, place = self.folder, self.folder.parent
        shutil.rmtree(folder, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        needed, free = self.count * _row_bytes(self.size), shutil.disk_usage(place).free
        if needed + self.count > free:
            raise InputError(
                f"{place}: {self.count:,} decoded images of {self.size} pixels need {file_size(needed)}, but only "
                f"{file_size(free)} is free: free some space, or set MMPOISON_CACHE to a folder on a larger disk"
            )
        folder.mkdir()
        self.cache.describe(self.key, folder)  # first: `cache clear` looks for it
        with (folder / "pixels.u8").open("wb") as stream:
            stream.truncate(needed)
        (folder / "broken.jsonl").touch()
        states = np.zeros(self.count, dtype=np.uint8)
        (folder / "states.u8").write_bytes(states.tobytes())
        return states

    def _fill(
        self, states: npt.NDArray[np.uint8], workers: int | None, progress: Progress | None
    ) -> dict[int, str]:
        """Decode all TODO rows and mark them on disk; return by row the faults that may disappear."""
        todo = np.flatnonzero(states == TODO)
        done = self.count - len(todo)
        if not len(todo) and progress is not None:
            progress(done, done)
        passing: dict[int, str] = {}
        at_once = max(1, CHUNK // _row_bytes(self.size))
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for start in range(0, len(todo), at_once):
                rows = todo[start : start + at_once]
                ids = [self.ids[row] for row in rows]
                so_far = done + start
                report = None if progress is None else partial(_after, progress, so_far, self.count)
                pixels, faults = decode_images(
                    self.root, ids, self.preparation, workers=workers, progress=report
                )
                # the folder's name identifies the unchanged images
                refuse_changed(self.root, ids, self.before[rows])
                passing |= {int(rows[k]): str(e) for k, e in faults.items() if e.fault in PASSING}
                if writing is not None:
                    writing.result()
                # decode the next chunk while this one is written
                writing = writer.submit(self._write, rows, pixels, faults)
            if writing is not None:
                writing.result()
        return passing

    def _write(
        self,
        rows: npt.NDArray[np.int64],
        decoded: Pixels,
        faults: Mapping[int, BrokenImage],
    ) -> None:
        """Write decoded rows, then mark them as done; the order holds even after a power failure."""
        with (
            (self.folder / "pixels.u8").open("r+b", buffering=0) as pixels,
            (self.folder / "states.u8").open("r+b", buffering=0) as marks,
            (self.folder / "broken.jsonl").open("a", encoding="utf-8") as reasons,
        ):
            news = np.full(len(rows), DONE, dtype=np.uint8)
            for k, row in enumerate(rows.tolist()):
                if (error := faults.get(k)) is None:
                    _write_at(pixels.fileno(), decoded[k].tobytes(), row * _row_bytes(self.size))
                elif error.fault in PASSING:
                    news[k] = TODO
                else:
                    news[k] = BROKEN
                    reasons.write(json.dumps([row, str(error)]) + "\n")
            reasons.flush()
            os.fsync(reasons.fileno())
            os.fsync(pixels.fileno())
            for row, state in zip(rows.tolist(), news.tolist(), strict=True):
                _write_at(marks.fileno(), bytes([state]), row)


def _after(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _reasons(folder: Path, states: npt.NDArray[np.uint8]) -> dict[int, str]:
    reasons = {int(row): "broken image" for row in np.flatnonzero(states == BROKEN)}
    if reasons:
        with (folder / "broken.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row, reason = parse_json(line, "broken.jsonl")
                except ValueError:
                    continue  # the incomplete last line of a killed run
                if row in reasons:
                    reasons[row] = reason
    return reasons


def _write_at(handle: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _open(folder: Path, count: int, size: int) -> Pixels:
    """Memory-map the pixels as a read-only array whose pages all processes share."""
    return np.asarray(
        np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=(count, size, size, 3))
    )
