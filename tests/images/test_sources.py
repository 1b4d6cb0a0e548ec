"""Images are opened wherever they lie, by many threads and processes, and nowhere else."""

from __future__ import annotations

import io
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import refusal, write_tar

from mmpoison.base import untrusted
from mmpoison.errors import InputError
from mmpoison.images import containers
from mmpoison.images.containers import _Cache, split_container
from mmpoison.images.sources import (
    file_name,
    image_bytes,
    image_extension,
    image_path,
    image_stat,
    image_stats,
    open_image,
)

IMAGES = [bytes([n]) * (n + 1) for n in range(100)]


def refused(root: Path, image_id: str) -> str:
    with pytest.raises(InputError):
        image_bytes(root, image_id)
    return refusal(lambda: open_image(root, image_id).read())


def write_arrow(file: Path, table: Any, rows: int = 7) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A hundred images in each kind of container, and one as a file."""
    folder = tmp_path / "root"
    folder.mkdir()
    write_tar(folder / "a.tar", {f"x/{n}.jpg": data for n, data in enumerate(IMAGES)})
    table = pa.table({"image": [{"bytes": data, "path": ""} for data in IMAGES]})
    pq.write_table(table, folder / "a.parquet", row_group_size=9)
    write_arrow(folder / "a.arrow", table)
    (folder / "plain.jpg").write_bytes(b"plain")
    return folder


IDS = {"tar": "a.tar/x/{}.jpg", "parquet": "a.parquet/{}", "arrow": "a.arrow/{}"}


@pytest.mark.parametrize("kind", IDS)
def test_every_image_by_many_threads_in_any_order(root: Path, kind: str) -> None:
    order = np.random.default_rng(0).permutation(np.tile(np.arange(100), 5)).tolist()

    def read(n: int) -> bool:
        with open_image(root, IDS[kind].format(n)) as stream:
            return stream.read() == IMAGES[n]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, order))


def _read_all(root: Path) -> bool:
    return all(
        open_image(root, name.format(n)).read() == IMAGES[n]
        for name in IDS.values()
        for n in range(0, 100, 9)
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_reads_although_a_lock_was_held(root: Path) -> None:
    assert _read_all(root)
    with containers._caches.tar._lock, containers._caches.groups._lock:
        context = multiprocessing.get_context("fork")
        child = context.Process(target=lambda: os._exit(0 if _read_all(root) else 1))
        child.start()
        child.join(30)
        if child.is_alive():
            child.kill()
    assert child.exitcode == 0


def test_a_changed_shard_is_read_anew(root: Path) -> None:
    assert open_image(root, "a.tar/x/3.jpg").read() == IMAGES[3]
    write_tar(root / "a.tar", {"first.jpg": b"0" * 2000, "x/3.jpg": b"new"})
    assert open_image(root, "a.tar/x/3.jpg").read() == b"new"


def test_a_folder_may_be_called_like_a_container(root: Path) -> None:
    (root / "b.tar").mkdir()
    (root / "b.tar" / "1.jpg").write_bytes(b"in a folder")
    assert open_image(root, "b.tar/1.jpg").read() == b"in a folder"
    assert open_image(root, "plain.jpg").read() == image_bytes(root, "plain.jpg") == b"plain"
    assert split_container(root, "b.tar/1.jpg") is None
    write_tar(root / "b.tar" / "c.tar", {"1.jpg": b"deeper"})
    assert open_image(root, "b.tar/c.tar/1.jpg").read() == b"deeper"


def test_the_file_format_of_arrow_too(root: Path) -> None:
    table = pa.table({"image": pa.array(IMAGES)})
    with pa.OSFile(str(root / "b.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table, max_chunksize=30)
    assert open_image(root, "b.arrow/77").read() == IMAGES[77]


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        ("a.tar/none.jpg", "no such image in the shard"),
        ("a.tar/x", "no such image in the shard"),
        ("a.parquet/100", "has no row 100; it has 100"),
        ("a.parquet/-1", "is not a row"),
        ("a.parquet/x", "is not a row"),
        ("a.parquet/\u0663", "is not a row"),
        ("a.parquet/9999999999999999999999", "is not a row"),
        ("a.parquet/photo/1", "has no column photo"),
        ("a.arrow/100", "has no row 100; it has 100"),
        ("a.arrow/photo/1", "has no column photo"),
        ("b.tar/1.jpg", "no such image"),
        ("plain.jpg/1.jpg", "no such image"),
        ("none.jpg", "no such image"),
        ("../root/../x.tar/1.jpg", "points outside"),
    ],
)
def test_what_is_not_there(root: Path, image_id: str, message: str) -> None:
    assert message in refused(root, image_id)


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.arrow"])
def test_a_broken_container(root: Path, name: str) -> None:
    raw = (root / name).read_bytes()
    inner = {"a.tar": "x/99.jpg", "a.parquet": "99", "a.arrow": "99"}[name]
    for length in (0, 10, len(raw) // 2):
        (root / name).write_bytes(raw[:length])
        refused(root, f"{name}/{inner}")


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.arrow"])
def test_a_link_to_a_container_elsewhere_is_refused(root: Path, name: str, tmp_path: Path) -> None:
    (root / name).rename(tmp_path / name)
    (root / name).symlink_to(tmp_path / name)
    inner = {"a.tar": "x/1.jpg"}.get(name, "1")
    for function in (open_image, image_stat, image_path, image_bytes):
        assert "points outside" in refusal(function, root, f"{name}/{inner}")


def test_a_link_within_the_root_is_followed(root: Path) -> None:
    (root / "b.tar").symlink_to(root / "a.tar")
    assert open_image(root, "b.tar/x/1.jpg").read() == IMAGES[1]


def test_rows_without_an_image(root: Path) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = [{"bytes": None, "path": "/etc/passwd"}, None, {"bytes": b"x", "path": None}]
    table = pa.table({"image": pa.array(cells, kind)})
    pq.write_table(table, root / "b.parquet")
    write_arrow(root / "b.arrow", table)
    for name in ("b.parquet", "b.arrow"):
        # a path in a file from outside is never followed
        assert "contains no image" in refused(root, f"{name}/0")
        assert "contains no image" in refused(root, f"{name}/1")
        assert open_image(root, f"{name}/2").read() == b"x"


def test_sizes_are_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_IMAGE_BYTES", 50)
    for name in IDS.values():
        assert open_image(root, name.format(49)).read() == IMAGES[49]
        assert "51 bytes are over the limit of 50" in refused(root, name.format(50))
    monkeypatch.setattr(untrusted, "MAX_GROUP_BYTES", 10)
    containers._renew_caches()
    assert "too much to read at once" in refused(root, "a.parquet/0")


def test_offsets_of_a_hostile_arrow_file(root: Path) -> None:
    """An offset that points behind the data must not be followed."""
    table = pa.table({"image": pa.array([b"first", b"second"])})
    write_arrow(root / "b.arrow", table)
    raw = (root / "b.arrow").read_bytes()
    offsets = np.array([0, 5, 11], "<i4").tobytes()
    assert raw.count(offsets) == 1
    (root / "b.arrow").write_bytes(raw.replace(offsets, np.array([0, 5, 2**30], "<i4").tobytes()))
    with pytest.raises(InputError):
        open_image(root, "b.arrow/1")
    (root / "b.arrow").write_bytes(raw.replace(offsets, np.array([0, 2**30, 11], "<i4").tobytes()))
    containers._renew_caches()
    for row in (0, 1):
        with pytest.raises(InputError):
            open_image(root, f"b.arrow/{row}")


def test_stat_tells_a_change(root: Path) -> None:
    before = {name: image_stat(root, name.format(1)) for name in IDS.values()}
    assert before["a.tar/x/{}.jpg"] == (
        str(root / "a.tar/x/1.jpg"),
        (root / "a.tar").stat().st_size,
        (root / "a.tar").stat().st_mtime_ns,
    )
    assert len({image_stat(root, f"a.parquet/{n}") for n in range(9)}) == 9
    for name in ("a.tar", "a.parquet", "a.arrow"):
        os.utime(root / name, ns=(1, 1))
    for name, old in before.items():
        assert image_stat(root, name.format(1)) != old
    assert "no such image" in refusal(image_stat, root, "none.tar/1.jpg")


# -- the cache -------------------------------------------------------------------------------------


def test_the_cache_keeps_what_was_used_last() -> None:
    cache: _Cache[str] = _Cache(3)
    made: list[str] = []

    def get(key: str, weight: int = 1) -> str:
        def make() -> tuple[str, int]:
            made.append(key)
            return key.upper(), weight

        return cache.get(key, make)

    assert [get(key) for key in "abcab"] == list("ABCAB")
    assert made == list("abc")
    get("d")
    get("a")
    get("b")
    assert made == list("abcd")
    get("c")
    assert made == list("abcdc")
    # one that is too large for the cache is kept alone
    get("e", 10)
    get("e", 10)
    assert made == list("abcdce")
    get("f")
    get("e")
    assert made == list("abcdcefe")


def test_the_cache_makes_a_thing_once_for_all_threads() -> None:
    cache: _Cache[int] = _Cache(10)
    made: list[int] = []

    def make() -> tuple[int, int]:
        made.append(1)
        return len(made), 1

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: cache.get("x", make), range(200))) == {1}
    with pytest.raises(RuntimeError):
        cache.get("y", lambda: (_ for _ in ()).throw(RuntimeError))
    assert cache.get("y", make) == 2


# -- names -----------------------------------------------------------------------------------------


def test_names_are_plain_and_different() -> None:
    jpg, png = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
    assert file_name("a/0.tar", "x/1.jpg", jpg) == "a/0/x/1.jpg"
    assert file_name("a/0.tar", "x/1.JPEG", jpg).startswith("a/0/x/1")
    assert file_name("p.parquet", "photo/17", png) == "p/photo/17.png"
    assert file_name("0.tar", "1.jpg", b"?") == "0/1.jpg"
    assert file_name("p.parquet", "1", b"?") == "p/1.bin"
    names = [
        file_name("0.tar", name, data)
        for name, data in [
            ("1.jpg", jpg), ("1.png", jpg), ("1.png", png), ("1.jpg", png), ("1?.jpg", jpg),
            ("1*.jpg", jpg), (".1.jpg", jpg), ("..a/1.jpg", jpg), ("x" * 300 + ".jpg", jpg),
            ("x" * 301 + ".jpg", jpg), ("a b/1.jpg", jpg), ("a_b/1.jpg", jpg), ("\u00e9.jpg", jpg),
        ]
    ]  # fmt: skip
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert not Path(name).is_absolute()
        assert all(not part.startswith(".") and len(part) < 120 for part in Path(name).parts)
        assert name.isascii()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_endings_by_content(kind: str) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, kind)
    ending = image_extension(stream.getvalue())
    assert ending is not None
    assert Image.registered_extensions()[ending] == kind


def test_stats_of_many_are_those_of_each(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "a").mkdir(parents=True)
    (root / "a" / "1.png").write_bytes(b"one")
    (root / "2.png").write_bytes(b"three")
    (root / "link.png").symlink_to(root / "a" / "1.png")
    (root / "b").symlink_to(root / "a")
    ids = ["a/1.png", "2.png", "link.png", "b/1.png", "a/../2.png", "./2.png"]
    assert list(image_stats(root, ids)) == [image_stat(root, each) for each in ids]
    assert "no such image" in refusal(list, image_stats(root, ["a/1.png", "a/none.png"]))
    (tmp_path / "out.png").write_bytes(b"x")
    for outside in ("../out.png", "a/../../out.png"):
        assert "points outside" in refusal(list, image_stats(root, [outside]))
