"""Decoded pixels of a data set: in memory where they are few, in a memory-mapped file where they are many.

The file is made once and shared by runs and processes. Its name is a digest of everything that its pixels hang on, so
a file is never out of date: other images, or a changed one, have another name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import DiskFull, no_room, write_json
from mmpoison.base.phrasing import count_of
from mmpoison.base.untrusted import parse_json, read_json
from mmpoison.errors import InputError
from mmpoison.images.containers import split_container
from mmpoison.images.decode import TRANSFORM, BrokenImage, read_image, try_decode_images
from mmpoison.images.file_states import States, file_states, refuse_changed
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.sources import ImageSet, IntArray, image_stat

IN_MEMORY = 128 * 2**20
"""Up to so many bytes of pixels are decoded in memory: it takes seconds, and a file for each small set is no help."""

CHUNK = 32 * 2**20
"""So many bytes of pixels are decoded before they are marked as done; a run that is killed loses no more than two."""

TODO, DONE, BROKEN = 0, 1, 2

# what may be otherwise the next time although the file is the same is not remembered
PASSING = ("missing", "no-access", "no-memory")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PixelStore:
    """Decoded images of a data set, addressed by the data set's image index.

    It may be sent to other processes: what lies in a file is opened there again, not copied.

    Attributes:
        pixels: Shape `(n, size, size, 3)`, uint8; read-only where they lie in a file.
        position: Row of `pixels` for each image of the table, -1 where it was not decoded, shape `(I,)`.
        preparation: How they were resized and cropped.
        broken: What is wrong with each image that could not be read, by its id; empty unless they were to be dropped.
        folder: Where the pixels lie on disk, or None.
        passing: Of the broken images, the ids of those that may be readable another time although no file changes.
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
        say: Callable[[str], None] | None = None,
        cache: Path | None = None,
        in_memory: int = IN_MEMORY,
    ) -> PixelStore:
        """Decode images, each once, or open those that a run before has decoded.

        Args:
            pairs: The set; its whole table of images is addressed.
            preparation: How images are resized and cropped; a number is the side in pixels of CLIP's own way.
            indices: Which images; all by default. Row `k` of the pixels is image `indices[k]`.
            broken: With `raise`, an image that cannot be read stops it; with `drop` it has no position and is named in
                `broken`, and its pairs are the caller's to drop.
            workers: Threads; the number of cores by default.
            progress: Called with (done, total).
            say: Told in one line when another process is at it and this one waits.
            cache: Folder of the files; `images` in the cache folder by default.
            in_memory: Up to so many bytes of pixels nothing is written.

        Raises:
            InputError: If images cannot be read (their number, and the first by name) or change meanwhile, or the disk
                is too small.
        """
        if broken not in ("raise", "drop"):
            raise InputError(f"broken={broken!r}: is none of raise, drop")
        preparation = Preparation.of(preparation)
        wanted = np.arange(len(pairs.images), dtype=np.int32) if indices is None else indices
        position = np.full(len(pairs.images), -1, dtype=np.int32)
        position[wanted] = np.arange(len(wanted), dtype=np.int32)
        ids = [str(image_id) for image_id in pairs.images.ids[wanted]]
        folder: Path | None = None
        before = file_states(pairs.root, ids)
        if len(ids) * _row_bytes(preparation.image_size) <= in_memory:
            pixels, faults = try_decode_images(
                pairs.root, ids, preparation, workers=workers, progress=progress
            )
            refuse_changed(pairs.root, ids, before)
            reasons = {row: str(error) for row, error in faults.items()}
            passing = {row for row, error in faults.items() if error.fault in PASSING}
        else:
            base = cache_folder() / "images" if cache is None else cache
            folder = base / _key(pairs.root, ids, preparation)
            reasons, passing = _make(
                folder,
                pairs.root,
                ids,
                before,
                preparation,
                workers=workers,
                progress=progress,
                say=say,
            )
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

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return PixelStore, (
                self.pixels,
                self.position,
                self.preparation,
                dict(self.broken),
                None,
                self.passing,
            )
        return _reopen, (
            self.folder,
            len(self.pixels),
            self.position,
            self.preparation,
            dict(self.broken),
            self.passing,
        )


@dataclass(frozen=True)
class StoredPixels:
    """What one folder of stored pixels holds.

    Attributes:
        folder: Where it lies.
        root: Folder of the images.
        images: How many images.
        size: Side in pixels.
        bytes: Size on disk.
    """

    folder: Path
    root: str
    images: int
    size: int
    bytes: int


def stored_pixels(cache: Path | None = None) -> list[StoredPixels]:
    """List all stored pixels of this machine, the largest first; any of them may be deleted."""
    base = cache_folder() / "images" if cache is None else cache
    found = []
    for about in sorted(base.glob("*/store.json")):
        try:
            value = read_json(about)
            disk = sum(file.stat().st_blocks * 512 for file in about.parent.iterdir())
            found.append(
                StoredPixels(
                    about.parent, str(value["root"]), int(value["images"]), int(value["size"]), disk
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda entry: -entry.bytes)


# -- the file --------------------------------------------------------------------------------------


def _row_bytes(size: int) -> int:
    return size * size * 3


def _key(root: Path, ids: Sequence[str], preparation: Preparation) -> str:
    """Digest the transform and the images' names, sizes in bytes and modification times."""
    base = root.resolve()
    digest = hashlib.sha256(f"{TRANSFORM}\n{preparation}\n{base}\n".encode())
    containers: dict[str, str] = {}
    for image_id in ids:
        digest.update(f"{image_id}\0{_state_of(base, image_id, containers)}\n".encode())
    return digest.hexdigest()[:32]


def _state_of(root: Path, image_id: str, containers: dict[str, str]) -> str:
    try:
        # many times as fast as `image_stat`; that an image lies inside its root is checked where it is opened
        found = os.stat(f"{root}/{image_id}")  # noqa: PTH116
        if stat.S_ISREG(found.st_mode):
            return f"{found.st_size} {found.st_mtime_ns}"
    except (OSError, ValueError):
        pass
    inner = split_container(root, image_id)
    if inner is not None and inner[0] in containers:
        return containers[inner[0]]
    try:
        state = " ".join(map(str, image_stat(root, image_id)[1:]))
    except InputError:
        return "missing"
    if inner is not None:
        containers[inner[0]] = state
    return state


def _make(
    folder: Path,
    root: Path,
    ids: Sequence[str],
    before: States,
    preparation: Preparation,
    *,
    workers: int | None,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> tuple[dict[int, str], set[int]]:
    """Decode what is not decoded yet; returns what is wrong with broken images, by row, and which may be read later."""
    size = preparation.image_size
    states = _states(folder, len(ids), size)
    if states is not None and states.all():
        return _reasons(folder, states), set()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, len(ids), size, progress, say):
            states = _states(folder, len(ids), size)
            if states is None:
                states = _lay_out(folder, root, len(ids), preparation)
            passing = _fill(folder, root, ids, before, preparation, states, workers, progress)
            states = _states(folder, len(ids), size)
            assert states is not None
    except OSError as error:
        if no_room(error) is not None:
            raise DiskFull(
                f"{folder.parent}: the disk is full ({_gigabytes(len(ids) * _row_bytes(size))} are needed for the "
                "decoded images): free some, or set MMPOISON_CACHE to a folder on another disk; what is decoded is kept"
            ) from None
        raise InputError(
            f"{error.filename or folder}: decoded images cannot be kept there ({error.strerror or error}): "
            "set MMPOISON_CACHE to a folder that may be written"
        ) from None
    return dict(sorted({**_reasons(folder, states), **passing}.items())), set(passing)


@contextmanager
def _locked(
    folder: Path,
    count: int,
    size: int,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> Iterator[None]:
    """Hold the lock of a store; while another process has it, show how far that one is."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if say is not None:
            say(f"another process is decoding these {count:,} images, waiting for it")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            states = _states(folder, count, size)
            if progress is not None and states is not None:
                # never all: the bar is finished below, by whoever sees the last one
                progress(min(int(np.count_nonzero(states)), count - 1), count)
    try:
        yield
    finally:
        lock.release()


def _states(folder: Path, count: int, size: int) -> npt.NDArray[np.uint8] | None:
    """TODO, DONE or BROKEN for each row; None if there is no sound store."""
    try:
        states = np.frombuffer((folder / "states.u8").read_bytes(), dtype=np.uint8)
        if (folder / "pixels.u8").stat().st_size != count * _row_bytes(size):
            return None
    except OSError:
        return None
    return states if len(states) == count and states.max(initial=0) <= BROKEN else None


def _reasons(folder: Path, states: npt.NDArray[np.uint8]) -> dict[int, str]:
    reasons = {int(row): "broken image" for row in np.flatnonzero(states == BROKEN)}
    if reasons:
        with (folder / "broken.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    row, reason = parse_json(line, "broken.jsonl")
                except ValueError:
                    continue  # the last line of a run that was killed
                if row in reasons:
                    reasons[row] = reason
    return reasons


def _lay_out(
    folder: Path, root: Path, count: int, preparation: Preparation
) -> npt.NDArray[np.uint8]:
    """Make an empty store; `states.u8` comes last, so what was begun and killed is begun anew."""
    size = preparation.image_size
    shutil.rmtree(folder, ignore_errors=True)
    needed, free = count * _row_bytes(size), shutil.disk_usage(folder.parent).free
    if needed + count > free:
        raise InputError(
            f"{folder.parent}: {_gigabytes(needed)} are needed for {count:,} decoded images of {size} pixels, "
            f"{_gigabytes(free)} are free: set MMPOISON_CACHE to a folder on a larger disk, or empty this one"
        )
    folder.mkdir()
    with (folder / "pixels.u8").open("wb") as stream:
        stream.truncate(needed)
    (folder / "broken.jsonl").touch()
    write_json(
        folder / "store.json",
        {
            "root": str(root.resolve()),
            "images": count,
            "size": size,
            "preparation": asdict(preparation),
            "transform": TRANSFORM,
        },
    )
    states = np.zeros(count, dtype=np.uint8)
    (folder / "states.u8").write_bytes(states.tobytes())
    return states


def _fill(
    folder: Path,
    root: Path,
    ids: Sequence[str],
    before: States,
    preparation: Preparation,
    states: npt.NDArray[np.uint8],
    workers: int | None,
    progress: Progress | None,
) -> dict[int, str]:
    """Decode all rows that are TODO and mark them on disk; what may be readable the next time is returned by row."""
    row_bytes = _row_bytes(preparation.image_size)
    todo = np.flatnonzero(states == TODO)
    at_once = max(1, CHUNK // row_bytes)
    chunks = [todo[start : start + at_once] for start in range(0, len(todo), at_once)]
    done = len(ids) - len(todo)
    if not len(todo) and progress is not None:
        progress(done, done)
    passing: dict[int, str] = {}
    with (
        (folder / "pixels.u8").open("r+b", buffering=0) as pixels,
        (folder / "states.u8").open("r+b", buffering=0) as marks,
        (folder / "broken.jsonl").open("a", encoding="utf-8") as reasons,
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):

        def decode(row: int) -> BrokenImage | None:
            try:
                row_pixels = read_image(root, ids[row], preparation)
            except BrokenImage as error:
                return error
            _write_at(pixels.fileno(), row_pixels.tobytes(), row * row_bytes)
            return None

        def submit(rows: Iterable[int]) -> list[Future[BrokenImage | None]]:
            return [pool.submit(decode, int(row)) for row in rows]

        try:
            ahead = submit(chunks[0]) if chunks else []
            for number, rows in enumerate(chunks):
                results = ahead
                # the next chunk is decoded while this one goes to the disk
                ahead = submit(chunks[number + 1]) if number + 1 < len(chunks) else []
                news = np.full(len(rows), DONE, dtype=np.uint8)
                for k, result in enumerate(results):
                    error = result.result()
                    if error is not None and error.fault in PASSING:
                        passing[int(rows[k])] = str(error)
                        news[k] = TODO
                    elif error is not None:
                        news[k] = BROKEN
                        reasons.write(json.dumps([int(rows[k]), str(error)]) + "\n")
                    done += 1
                    if progress is not None and (done % 64 == 0 or done == len(ids)):
                        progress(done, len(ids))
                # the name of the folder stands for the images as they were
                refuse_changed(root, [ids[row] for row in rows], before[rows])
                # marked as done only when it is: also after a loss of power
                reasons.flush()
                os.fsync(reasons.fileno())
                os.fsync(pixels.fileno())
                for row, state in zip(rows.tolist(), news.tolist(), strict=True):
                    _write_at(marks.fileno(), bytes([state]), row)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return passing


def _write_at(handle: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _open(folder: Path, count: int, size: int) -> Pixels:
    """Map the pixels as a read-only array whose pages all processes share."""
    return np.asarray(
        np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r", shape=(count, size, size, 3))
    )


def _reopen(
    folder: Path,
    count: int,
    position: IntArray,
    preparation: Preparation,
    broken: Mapping[str, str],
    passing: frozenset[str],
) -> PixelStore:
    pixels = _open(folder, count, preparation.image_size)
    return PixelStore(pixels, position, preparation, broken, folder, passing)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
