"""Stored pixels: decoded once, shared by processes, safe against a kill, never out of date, never silently broken."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import refusal

from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError
from mmpoison.images import PixelStore, Preparation, decode, read_image, store
from mmpoison.images.store import stored_pixels

COUNT, SIZE = 40, 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:02d}.png")
    return root


def table(root: Path, count: int = COUNT) -> PairDataset:
    ids = [f"{number:02d}.png" for number in range(count)]
    images = ImageTable.build(ids, [None] * count, ["train"] * count, root)
    return PairDataset.build(images, [f"picture {n}" for n in range(count)], range(count))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def keep(root: Path, cache: Path, **options: Any) -> PixelStore:
    return PixelStore.decode(table(root), SIZE, cache=cache, in_memory=0, **options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are decoded from now on."""
    names: list[str] = []

    def watched(root: Path, image_id: str, preparation: Preparation) -> Any:
        names.append(image_id)
        return read_image(root, image_id, preparation)

    monkeypatch.setattr(decode, "read_image", watched)
    return names


# -- what is in it ---------------------------------------------------------------------------------


def test_it_holds_what_decoding_gives(folder: Path, cache: Path) -> None:
    calls: list[tuple[int, int]] = []
    kept = keep(folder, cache, progress=lambda *call: calls.append(call))
    memory = PixelStore.decode(table(folder), SIZE)
    np.testing.assert_array_equal(kept.pixels, memory.pixels)
    np.testing.assert_array_equal(kept.position, memory.position)
    assert kept.size == SIZE
    assert kept.preparation == memory.preparation == Preparation(SIZE)
    assert memory.folder is None
    assert kept.broken == {}
    assert calls[-1] == (COUNT, COUNT)
    indices = np.array([31, 2, 2, 17], dtype=np.int32)
    np.testing.assert_array_equal(kept.take(indices), memory.take(indices))


def test_rows_follow_the_indices(folder: Path, cache: Path) -> None:
    kept = keep(folder, cache, indices=np.array([7, 3], dtype=np.int32))
    assert len(kept.pixels) == 2
    assert np.flatnonzero(kept.position >= 0).tolist() == [3, 7]
    np.testing.assert_array_equal(kept.pixels[0], read_image(folder, "07.png", SIZE))
    assert "image 4 was not decoded" in refusal(kept.take, np.array([3, 4], dtype=np.int32))


def test_only_many_images_go_to_the_cache_folder(folder: Path, fresh_cache: Path) -> None:
    assert PixelStore.decode(table(folder), SIZE, cache=fresh_cache).folder is None
    assert not fresh_cache.exists()
    kept = PixelStore.decode(table(folder), SIZE, in_memory=COUNT * SIZE * SIZE * 3 - 1)
    assert kept.folder is not None
    assert kept.folder.parent == fresh_cache / "images"


def test_the_pixels_are_one_read_only_map(folder: Path, cache: Path) -> None:
    kept = keep(folder, cache)
    assert not kept.pixels.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        kept.pixels[0] = 0
    assert kept.folder is not None
    # the array is over the file itself: what changes there shows here
    with (kept.folder / "pixels.u8").open("r+b") as stream:
        stream.write(bytes([7]))
    assert kept.pixels[0, 0, 0, 0] == 7
    # a batch is a copy that may be changed
    kept.take(np.array([0], dtype=np.int32))[:] = 0


def test_it_is_sent_by_name(folder: Path, cache: Path) -> None:
    kept = keep(folder, cache)
    sent = pickle.dumps(kept)
    assert len(sent) < 2_000 + kept.position.nbytes
    np.testing.assert_array_equal(pickle.loads(sent).pixels, kept.pixels)
    assert pickle.loads(sent).preparation == Preparation(SIZE)
    memory = PixelStore.decode(table(folder), SIZE)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(memory)).pixels, memory.pixels)


# -- when it is not used ---------------------------------------------------------------------------


def test_another_image_size_transform_or_set_is_another_store(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> int:
        return len(list(cache.glob("images/*/entry.json")))

    keep(folder, cache)
    for number, way in enumerate(
        (
            Preparation(SIZE + 1),
            Preparation(SIZE, "squash"),
            Preparation(SIZE, interpolation="bilinear"),
        )
    ):
        PixelStore.decode(table(folder), way, cache=cache, in_memory=0)
        assert made() == number + 2
    PixelStore.decode(table(folder, COUNT - 1), SIZE, cache=cache, in_memory=0)
    assert made() == 5
    path = folder / "05.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    keep(folder, cache)
    assert made() == 6
    shutil.copytree(folder, folder.with_name("copy"))
    keep(folder.with_name("copy"), cache)
    assert made() == 7
    monkeypatch.setattr(store, "code_version", lambda *roots: "another")
    keep(folder, cache)
    assert made() == 8


@pytest.mark.parametrize("file", ["pixels.u8", "states.u8"])
def test_a_damaged_store_is_made_anew(
    folder: Path, cache: Path, decoded: list[str], file: str
) -> None:
    kept = keep(folder, cache)
    want = kept.pixels.copy()
    assert kept.folder is not None
    decoded.clear()
    with (kept.folder / file).open("r+b") as stream:
        stream.truncate(COUNT // 2)
    np.testing.assert_array_equal(keep(folder, cache).pixels, want)
    assert len(decoded) == COUNT


def test_images_in_a_shard(folder: Path, cache: Path, tmp_path: Path, decoded: list[str]) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()

    def pack() -> None:
        with tarfile.open(shards / "0.tar", "w") as tar:
            for number in range(5):
                tar.add(folder / f"{number:02d}.png", arcname=f"{number:02d}.png")

    def kept() -> PixelStore:
        ids = [f"0.tar/{number:02d}.png" for number in range(5)]
        images = ImageTable.build(ids, [None] * 5, ["train"] * 5, shards)
        pairs = PairDataset.build(images, ["x"] * 5, range(5))
        return PixelStore.decode(pairs, SIZE, cache=cache, in_memory=0)

    pack()
    first = kept()
    np.testing.assert_array_equal(first.pixels[3], read_image(folder, "03.png", SIZE))
    assert kept().folder == first.folder
    assert len(decoded) == 5
    # the shard stands for all that is in it
    shutil.copy(folder / "09.png", folder / "03.png")
    pack()
    second = kept()
    assert second.folder != first.folder
    np.testing.assert_array_equal(second.pixels[3], read_image(folder, "09.png", SIZE))


# -- broken images ---------------------------------------------------------------------------------


@pytest.fixture
def broken(folder: Path, cut_jpeg: bytes) -> Path:
    (folder / "03.png").write_bytes(cut_jpeg)
    (folder / "08.png").write_text("no image")
    (folder / "21.png").unlink()
    return folder


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_broken_images_stop_it(broken: Path, cache: Path, in_memory: int) -> None:
    said = refusal(PixelStore.decode, table(broken), SIZE, cache=cache, in_memory=in_memory)
    assert said.startswith("3 of 40 images cannot be read, the first: ")
    assert "03.png: broken image" in said
    assert "mmpoison data verify" in said


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_or_are_dropped_by_name(broken: Path, cache: Path, in_memory: int) -> None:
    kept = PixelStore.decode(table(broken), SIZE, cache=cache, in_memory=in_memory, broken="drop")
    assert sorted(kept.broken) == ["03.png", "08.png", "21.png"]
    assert "truncated" in kept.broken["03.png"]
    assert "not an image" in kept.broken["08.png"]
    assert "no such image" in kept.broken["21.png"]
    # the others stay broken until their files change
    assert kept.passing == pickle.loads(pickle.dumps(kept)).passing == {"21.png"}
    assert np.flatnonzero(kept.position < 0).tolist() == [3, 8, 21]
    assert "image 8 was not decoded" in refusal(kept.take, np.array([8], dtype=np.int32))
    good = np.array([2, 4, 39], dtype=np.int32)
    for row, number in zip(kept.take(good), good, strict=True):
        np.testing.assert_array_equal(row, read_image(broken, f"{number:02d}.png", SIZE))


def test_what_is_broken_is_remembered(broken: Path, cache: Path, decoded: list[str]) -> None:
    first = keep(broken, cache, broken="drop")
    decoded.clear()
    second = keep(broken, cache, broken="drop")
    # a file that is missing may be there the next time
    assert decoded == ["21.png"]
    assert second.broken == first.broken
    assert "3 of 40 images cannot be read" in refusal(keep, broken, cache)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_tried_again(folder: Path, cache: Path) -> None:
    (folder / "03.png").chmod(0)
    assert list(keep(folder, cache, broken="drop").broken) == ["03.png"]
    (folder / "03.png").chmod(0o644)
    assert keep(folder, cache).broken == {}


# -- killed, full, shared --------------------------------------------------------------------------

SLOW = f"""
import sys, time
from pathlib import Path
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.images import PixelStore, Preparation, decode, read_image, store

root, cache, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
count, decoded = {COUNT}, 0

def slow(root, image_id, preparation):
    global decoded
    time.sleep(seconds)
    decoded += 1
    return read_image(root, image_id, preparation)

decode.read_image = slow
store.CHUNK = 4 * {SIZE} * {SIZE} * 3
ids = [f"{{number:02d}}.png" for number in range(count)]
images = ImageTable.build(ids, [None] * count, ["train"] * count, root)
pairs = PairDataset.build(images, ["x"] * count, range(count))
kept = PixelStore.decode(pairs, {SIZE}, cache=cache, in_memory=0, workers=1)
print(decoded, int(kept.pixels.sum(dtype="int64")))
"""


def start(folder: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(folder), str(cache), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def done_in(cache: Path) -> int:
    files = list(cache.glob("images/*/states.u8"))
    return int(np.frombuffer(files[0].read_bytes(), dtype=np.uint8).sum()) if files else 0


def wait_for(cache: Path, count: int) -> None:
    for _ in range(1000):
        if done_in(cache) >= count:
            return
        time.sleep(0.02)
    raise AssertionError("the process decodes nothing")


def test_a_killed_run_is_gone_on_with(folder: Path, cache: Path, decoded: list[str]) -> None:
    process = start(folder, cache, 0.02)
    wait_for(cache, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = done_in(cache)
    assert 8 <= done < COUNT
    calls: list[tuple[int, int]] = []
    kept = keep(folder, cache, progress=lambda *call: calls.append(call))
    # nothing that was done is done again, and it is right
    assert len(decoded) == COUNT - done
    np.testing.assert_array_equal(kept.pixels, PixelStore.decode(table(folder), SIZE).pixels)
    assert calls[-1] == (COUNT, COUNT)


def test_two_processes_share_the_work(folder: Path, cache: Path, decoded: list[str]) -> None:
    process = start(folder, cache, 0.02)
    wait_for(cache, 4)
    calls: list[tuple[int, int]] = []
    kept = keep(folder, cache, progress=lambda *call: calls.append(call))
    out, _ = process.communicate()
    assert decoded == []
    assert calls[-1] == (COUNT, COUNT)
    assert out.split() == [str(COUNT), str(int(kept.pixels.sum(dtype=np.int64)))]


Usage = namedtuple("Usage", "total used free")


def test_a_small_disk_is_said_before_anything_is_done(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    with pytest.raises(InputError, match=r": 40 decoded images .* need .* MMPOISON_CACHE"):
        keep(folder, cache)
    assert decoded == []
    assert not list(cache.glob("images/*/pixels.u8"))


def test_a_disk_that_fills_up(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(store, "CHUNK", 4 * SIZE * SIZE * 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    pwrite = os.pwrite

    def full(handle: int, content: bytes, offset: int) -> int:
        if offset >= 20 * SIZE * SIZE * 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"the disk is full .* MMPOISON_CACHE"):
        keep(folder, cache)
    monkeypatch.setattr(os, "pwrite", pwrite)
    decoded.clear()
    kept = keep(folder, cache)
    assert sorted(decoded) == [f"{number:02d}.png" for number in range(20, COUNT)]
    np.testing.assert_array_equal(kept.pixels, PixelStore.decode(table(folder), SIZE).pixels)


def test_a_cache_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "decoded images cannot be cached there" in refusal(
        keep, folder, tmp_path / "file" / "cache"
    )


def test_what_is_stored_is_listed(folder: Path, cache: Path) -> None:
    assert stored_pixels(cache) == []
    kept = keep(folder, cache)
    (cache / "images" / "else").mkdir()
    (cache / "images" / "else" / "entry.json").write_text("not ours")
    (listed,) = stored_pixels(cache)
    assert listed.path == kept.folder
    note = {"root": str(folder.resolve()), "images": COUNT, "size": SIZE}
    assert listed.about["note"] == note
    assert listed.bytes >= COUNT * SIZE * SIZE * 3
