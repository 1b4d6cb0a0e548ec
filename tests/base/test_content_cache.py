"""The content cache: an entry is made once, whatever dies and however many want it; listed, and deleted."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.base.content_cache import CacheKey, ContentCache, disk_bytes, read_arrays
from mmpoison.errors import InputError, MmpoisonWarning

# -- The content cache: an entry is made once, whatever dies and however many want it; listed, and deleted.


KEY = CacheKey("stages/finetune", {"seed": 0, "data": "abc"}, "clean_model", {"like": "small"})


def read(folder: Path) -> str:
    if not (folder / "value").is_file():
        raise InputError("no value")
    return (folder / "value").read_text()


def writes(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "value").write_text(text)


def test_made_once(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    assert KEY not in cache
    assert cache.obtain(KEY, read, writes("one")) == ("one", False)
    assert KEY in cache
    assert cache.obtain(KEY, read, writes("two")) == ("one", True)
    assert not list(tmp_path.rglob("*.work"))
    assert not list(tmp_path.rglob("*.owner"))
    about = json.loads((cache.path(KEY) / "entry.json").read_text())
    assert (about["parts"], about["note"]) == (KEY.parts, KEY.note)


def test_the_key_is_the_content_and_not_the_name() -> None:
    assert CacheKey(KEY.kind, KEY.parts, "poisoned").digest == KEY.digest
    for kind, parts in (("stages/filter", KEY.parts), (KEY.kind, {**KEY.parts, "seed": 1})):
        assert CacheKey(kind, parts).digest != KEY.digest


def test_what_failed_is_not_there_and_is_resumed(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.obtain(KEY, read, fails)
    assert KEY not in cache

    def resumes(folder: Path) -> None:
        assert (folder / "state").read_text() == "half"
        (folder / "value").write_text("whole")

    assert cache.obtain(KEY, read, resumes) == ("whole", False)


@pytest.mark.parametrize("left", [None, "onf"])
def test_a_broken_entry_is_made_anew(tmp_path: Path, left: str | None) -> None:
    """A file that is gone, or has another bit: a tensor with another bit is a tensor."""
    cache = ContentCache(tmp_path)
    cache.obtain(KEY, read, writes("one"))
    value = cache.path(KEY) / "value"
    value.unlink() if left is None else value.write_text(left)
    with pytest.warns(MmpoisonWarning, match="is damaged, so it is computed again"):
        assert cache.obtain(KEY, read, writes("two")) == ("two", False)
    assert cache.obtain(KEY, read, writes("three")) == ("two", True)


def test_arrays(tmp_path: Path) -> None:
    cache, computed = ContentCache(tmp_path), 0

    def compute() -> dict[str, Any]:
        nonlocal computed
        computed += 1
        return {"one": np.arange(3), "two": np.ones((2, 2), np.float32)}

    for _ in range(2):
        two, one = cache.arrays(KEY, compute, "two", "one")
        np.testing.assert_array_equal(one, np.arange(3))
        assert two.dtype == np.float32
    assert computed == 1
    (cache.path(KEY) / "arrays.npz").write_bytes(b"PK")
    with pytest.warns(MmpoisonWarning, match="is damaged"):
        cache.arrays(KEY, compute, "one")
    assert computed == 2


def test_a_cache_that_may_not_be_written_stops_no_computation(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (ones,) = ContentCache(tmp_path / "file").arrays(KEY, lambda: {"x": np.ones(2)}, "x")
    assert ones.sum() == 2
    with pytest.raises(OSError, match="file"):
        ContentCache(tmp_path / "file").obtain(KEY, read, writes("one"))


# -- several processes -------------------------------------------------------------------------------------------------


def _make_slowly(folder: Path) -> None:
    with (folder / "makers").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    (folder / "value").write_text(str(os.getpid()))


def _want(root: Path) -> None:
    said: list[str] = []
    value, _ = ContentCache(root).obtain(KEY, read, _make_slowly, say=said.append)
    (root / f"got-{os.getpid()}").write_text(value)
    (root / f"said-{os.getpid()}").write_text("\n".join(said))


def _die(root: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "state").write_text("half")
        (root / "started").touch()
        time.sleep(600)

    ContentCache(root).obtain(KEY, read, make)


def test_two_processes_want_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_want, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    got = [path.read_text() for path in tmp_path.glob("got-*")]
    assert len(got) == 3
    assert len(set(got)) == 1
    makers = (ContentCache(tmp_path).path(KEY) / "makers").read_text().split()
    assert makers == got[:1]


def test_one_dies_and_one_lives_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    dying = context.Process(target=_die, args=(tmp_path,))
    dying.start()
    while not (tmp_path / "started").exists():
        assert dying.is_alive()
        time.sleep(0.05)
    cache = ContentCache(tmp_path)
    (unfinished,) = cache.entries(KEY.kind)
    assert unfinished.path.name == f"{KEY.digest}.work"
    assert not cache.delete(unfinished)
    waiting = context.Process(target=_want, args=(tmp_path,))
    waiting.start()
    time.sleep(0.5)
    assert not list(tmp_path.glob("got-*"))
    dying.kill()
    waiting.join(120)
    assert len(list(tmp_path.glob("got-*"))) == 1
    (said,) = tmp_path.glob("said-*")
    assert said.read_text() in (
        "",  # it came too late to wait
        f"clean_model: waiting for process {dying.pid} on {os.uname().nodename}, which is computing it",
    )
    assert (cache.path(KEY) / "state").read_text() == "half"


# -- what is there -----------------------------------------------------------------------------------------------------


def test_everything_is_listed_and_can_be_deleted(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    assert cache.entries() == []
    cache.obtain(KEY, read, writes("one"))
    features = CacheKey("features", {"x": 1})
    cache.arrays(features, lambda: {"x": np.ones(10_000)}, "x")
    named = CacheKey("downloads", {"data": "set"}, address="a.set")
    with cache.locked(named) as folder:
        folder.mkdir(parents=True)
        cache.describe(named, folder)
        (busy,) = cache.entries("downloads")
        assert not cache.delete(busy)
    for name in ("crashes/20260101-120000-7.txt", f"added-images/{'0' * 64}.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    damaged, unfinished = (tmp_path / "frozen" / f"{'0' * 32}{end}" for end in ("", ".work"))
    unfinished.mkdir(parents=True)
    damaged.mkdir()
    (damaged / "entry.json").write_text("{")
    assert len(cache.entries("frozen")) == 2
    found = {entry.kind: entry for entry in cache.entries()}
    kinds = {"added-images", "crashes", "downloads", "features", "frozen", "stages/finetune"}
    assert set(found) == kinds
    assert found["stages/finetune"].about["name"] == "clean_model"
    assert found["features"].bytes >= 80_000
    assert found["downloads"].path.name == "a.set"
    assert disk_bytes(tmp_path) >= sum(entry.bytes for entry in found.values())
    # reading is use
    entry_file = cache.path(KEY) / "entry.json"
    os.utime(entry_file, (1, 1))
    cache.obtain(KEY, read, writes("one"))
    assert entry_file.stat().st_mtime > time.time() - 600
    assert all(cache.delete(entry) for entry in cache.entries())
    assert cache.entries() == []
    assert KEY not in cache


def test_what_is_not_of_the_cache_stays(tmp_path: Path) -> None:
    """A cache folder one level too high, with another cache and old files in it, and links into other folders."""
    top = tmp_path / "top"
    other, inner = ContentCache(tmp_path / "outside"), ContentCache(top / "inner")
    for cache in (other, inner):
        cache.obtain(KEY, read, writes("one"))
        half = cache.folder / "features" / f"{'0' * 32}.work"
        half.mkdir(parents=True)
        (half / "state").write_text("half")
    outside = other.folder
    for name in ("notes.txt", "photos/1.png", "photos/2020/1.png", "crashes/mine.txt", "a/b/c/d"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("x")
    (top / "photos" / ("a" * 32)).mkdir()
    (top / "photos" / ("a" * 32) / "1.png").write_text("x")
    (top / "data").symlink_to(outside / "stages")
    (top / "features").symlink_to(outside / "features")
    (top / "stages").mkdir()
    (top / "stages" / "finetune").symlink_to(outside / "stages" / "finetune")
    (top / "frozen").mkdir()
    (top / "frozen" / f"{'0' * 32}.work").symlink_to(outside / "features" / f"{'0' * 32}.work")
    (top / "crashes" / "20260101-120000-7.txt").symlink_to(top / "notes.txt")
    for path in [*top.rglob("*"), *outside.rglob("*")]:
        os.utime(path, (1, 1))
    before = {path for folder in (top, outside) for path in folder.rglob("*")}
    cache = ContentCache(top)
    assert cache.entries() == []
    # an entry of its own goes, and a link in it is not followed
    cache.obtain(CacheKey("search", {}), read, writes("one"))
    (cache.path(CacheKey("search", {})) / "link").symlink_to(outside)
    assert [cache.delete(entry) for entry in cache.entries()] == [True]
    assert not cache.entries()
    assert before <= {path for folder in (top, outside) for path in folder.rglob("*")}


# -- Arrays of a cache: a damaged file is as good as none.


def _npz(header: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"[1, 2]",
        _npz(b"{"),
        _npz(b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000000,), }\n"),
        _npz(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"),
    ],
)
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert read_arrays(tmp_path / "x.npz", "a") is None


def test_one_plain_array_and_a_pipe_are_no_archives(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("x.npy", "pipe.npz"):
        assert read_arrays(tmp_path / name, "a") is None
