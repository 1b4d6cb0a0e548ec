"""Parquet: paths or bytes, captions or lists of them, whole or in pieces."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import captions_by_image, refusal

from mmpoison.datasets import load_pairs, stream_pairs
from mmpoison.datasets.formats import arrow_rows
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images.sources import open_image

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes one file of columns; arrays keep their type."""

    def make(name: str = "pairs.parquet", metadata: Any = None, **columns: Any) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        made = pa.table(columns)
        if metadata is not None:
            made = made.replace_schema_metadata({"huggingface": json.dumps(metadata)})
        pq.write_table(made, file, row_group_size=2 if len(made) < 100 else 5000)
        return file

    return make


# -- what is read ----------------------------------------------------------------------------------


BYTES = [b"first", b"second", b"third", b"fourth", b"fifth"]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})]
)
def test_bytes_stay_in_the_file(write: Write, tmp_path: Path, kind: Any) -> None:
    cells = [{"bytes": b, "path": None} for b in BYTES] if pa.types.is_struct(kind) else BYTES
    write("part-0.parquet", image=pa.array(cells, kind), caption=list("abcde"))
    (tmp_path / "elsewhere").mkdir()
    pairs = load_pairs(tmp_path, images=tmp_path / "elsewhere")
    assert list(pairs.images.ids) == [f"part-0.parquet/{n}" for n in range(5)]
    # bytes lie in the file, wherever other images may be
    assert pairs.root == tmp_path
    for image_id, data in zip(pairs.images.ids, BYTES, strict=True):
        assert open_image(pairs.root, image_id).read() == data


def test_a_column_by_option_is_the_one_that_is_opened(write: Write, tmp_path: Path) -> None:
    write("p.parquet", image=pa.array([b"no"]), photo=pa.array([b"yes"]), alt=["x"])
    pairs = load_pairs(tmp_path, image="photo", caption="alt")
    assert list(pairs.images.ids) == ["p.parquet/photo/0"]
    assert open_image(tmp_path, "p.parquet/photo/0").read() == b"yes"


def test_the_only_column_of_bytes_is_the_images(write: Write, tmp_path: Path) -> None:
    write("p.parquet", url=["http://a/1.jpg"], content=pa.array([b"x"]), text=["t"])
    pairs = load_pairs(tmp_path)
    assert list(pairs.images.ids) == ["p.parquet/0"]
    assert open_image(tmp_path, "p.parquet/0").read() == b"x"


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)]
)
def test_lists_and_dictionaries_of_captions(write: Write, kind: Any) -> None:
    file = write(image=["1.jpg"], captions=pa.array([["a", "b"]], kind))
    assert captions_by_image(load_pairs(file)) == {"1.jpg": ["a", "b"]}
    file = write(image=["1.jpg"], caption=pa.array(["a"]).dictionary_encode())
    assert captions_by_image(load_pairs(file)) == {"1.jpg": ["a"]}


def test_class_names_of_the_hub(write: Write) -> None:
    features = {"label": {"_type": "ClassLabel", "names": ["cow", "sheep"]}}
    columns = {"image": list("abcd"), "caption": list("abcd"), "label": [1, 0, -1, 7]}
    file = write(metadata={"info": {"features": features}}, **columns)
    assert [line["label"] for line in load_pairs(file).lines()] == ["sheep", "cow", None, None]
    file = write(**columns)
    assert load_pairs(file).images.label(0) == "1"


def test_a_problem_behind_the_last_image_is_said(write: Write) -> None:
    file = write(image=["1", "2", "../3"], caption=list("abc"))
    pieces = list(stream_pairs(file, images_at_once=1))
    assert [len(piece.problems) for piece in pieces] == [0, 1]


@pytest.mark.slow
def test_pieces_take_a_fraction_of_the_memory(write: Write) -> None:
    """Of images inside the file; rows that name one by its path may stand anywhere, so they are held."""
    rows = 4_000
    inside = pa.array([{"bytes": b"x", "path": None}] * rows)
    file = write(image=inside, caption=[f"a thing {n}" for n in range(rows)])

    def in_pieces() -> int:
        return sum(len(piece) for piece in stream_pairs(file, images_at_once=50))

    def whole() -> int:
        return len(load_pairs(file))

    peaks: list[int] = []
    for read in (in_pieces, whole):
        gc.collect()
        tracemalloc.start()
        assert read() == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # not closer, since the table of interned paths may just double
    assert peaks[0] < peaks[1] / 2.5


# -- what is broken --------------------------------------------------------------------------------


def test_broken_rows_are_left_out_and_named(write: Write) -> None:
    bad = pa.Array.from_buffers(
        pa.string(),
        4,
        [
            None,
            pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0\4\0\0\0\5\0\0\0"),
            pa.py_buffer(b"a\xff\xfede"),
        ],
    )
    file = write(image=["1.jpg", "2.jpg", "3.jpg", None], caption=bad)
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(file)
    assert captions_by_image(pairs) == {"1.jpg": ["a"], "2.jpg": [], "3.jpg": ["d"]}
    assert "pairs.parquet row 3: has no image" in pairs.problems
    assert any("row 1: a caption of '2.jpg' is not UTF-8 text" in line for line in pairs.problems)
    file = write(image=["1.jpg"], caption=pa.nulls(1, pa.string()))
    with pytest.raises(InputError, match="row 0: has no caption"):
        load_pairs(file)


def test_a_broken_file_among_sound_ones(write: Write, tmp_path: Path) -> None:
    whole = write("a.parquet", image=["1.jpg"], caption=["x"])
    write("c.parquet", image=["2.jpg"], caption=["y"])
    (tmp_path / "b.parquet").write_bytes(whole.read_bytes()[:-20])
    write("d.parquet", number=[1])
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(tmp_path)
    assert captions_by_image(pairs) == {"1.jpg": ["x"], "2.jpg": ["y"]}
    assert len(pairs.problems) == 2
    assert "b.parquet: broken Parquet file" in pairs.problems[0]
    assert "d.parquet: no column holds images" in pairs.problems[1]


def test_a_broken_group_loses_its_rows_alone(write: Write) -> None:
    file = write(image=[f"{n}.jpg" for n in range(40)], caption=["word " * n for n in range(40)])
    chunk = pq.ParquetFile(file).metadata.row_group(7).column(1)
    raw = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    raw[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    file.write_bytes(raw)
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(file)
    assert set(range(40)) - {int(i.removesuffix(".jpg")) for i in pairs.images.ids} == {14, 15}
    assert len(pairs.problems) == 1
    assert pairs.problems[0].startswith("pairs.parquet rows 14 to 15: broken Parquet file")


def test_paths_and_bytes_are_not_mixed(write: Write, tmp_path: Path) -> None:
    write("a.parquet", image=["1.jpg"], caption=["x"])
    write("b.parquet", image=[b"1"], caption=["x"])
    with pytest.warns(MmpoisonWarning, match=r"b.parquet: contains bytes of images, but the"):
        assert len(load_pairs(tmp_path)) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [1], "caption": ["x"]}, "column 'image' holds int64, not images"),
        ({"image": ["1.jpg"], "caption": [3]}, "column 'caption' holds int64, not captions"),
    ],
)
def test_columns_that_cannot_be_used(write: Write, columns: Any, message: str) -> None:
    assert message in refusal(load_pairs, write(**columns))


def test_two_columns_of_one_name_are_refused(write: Write, tmp_path: Path) -> None:
    names = ["image", "caption", "by", "by"]
    twice = pa.Table.from_arrays([pa.array(["x"])] * 4, names)
    pq.write_table(twice, tmp_path / "b.parquet")
    message = "b.parquet: 2 columns are called 'by': give them different names"
    assert message in refusal(load_pairs, tmp_path / "b.parquet")
    write("a.parquet", image=["1.jpg"], caption=["x"])
    with pytest.warns(MmpoisonWarning):
        assert message in load_pairs(tmp_path).problems[0]


def test_a_manifest_that_does_not_fit_is_refused(write: Write, tmp_path: Path) -> None:
    write(image=["1.jpg"], caption=["x"])
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is a poisoned set"):
        next(stream_pairs(tmp_path))


# -- bombs: one value, said again and again --------------------------------------------------------


def peak_of(code: str, *arguments: object) -> tuple[str, int]:
    """What a process says, and how many MiB it took beyond its libraries."""
    script = (
        "import resource, sys, warnings, pyarrow.parquet\n"
        "from mmpoison.datasets import load_pairs\n"
        "from mmpoison.images.sources import image_bytes\n"
        "from pathlib import Path\n"
        "warnings.simplefilter('ignore')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{code}\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    said, _, most = done.stdout.strip().rpartition("\n")
    return said, int(most)


def repeated(value: str | bytes, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([value]))


@pytest.mark.parametrize("nested", [False, True])
def test_a_caption_said_again_and_again(tmp_path: Path, nested: bool) -> None:
    """A few hundred kB that would be 10 GB of text."""
    rows = 100_000
    captions: Any = repeated("a" * 100_000, rows)
    if nested:
        captions = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), captions)
    made = pa.table({"image": [f"{n}.png" for n in range(rows)], "caption": captions})
    file = tmp_path / "x.parquet"
    pq.write_table(made, file, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert file.stat().st_size < 1_000_000
    said, most = peak_of(
        "pairs = load_pairs(sys.argv[1]); print(len(pairs), *pairs.problems)", file
    )
    count, _, problem = said.partition(" ")
    assert 1_000 < int(count) < 5_000
    assert "bytes of text (a decompression bomb?); the rest is not read" in problem
    assert most < 700


def test_an_image_said_again_and_again(tmp_path: Path) -> None:
    """3 kB that would be 32 GB of images."""
    made = pa.table({"image": repeated(bytes(32 << 20), 1000), "caption": ["a"] * 1000})
    file = tmp_path / "x.parquet"
    pq.write_table(made, file, compression="zstd", dictionary_pagesize_limit=1 << 30)
    assert file.stat().st_size < 100_000
    said, most = peak_of(
        "print(len(image_bytes(Path(sys.argv[1]).parent, 'x.parquet/image/999')))", file
    )
    assert said == str(32 << 20)
    assert most < 700


def test_captions_that_repeat_are_all_read(tmp_path: Path) -> None:
    captions = [f"a picture of number {n % 7}" for n in range(5000)]
    lists = [[c, None, "x"] if n % 3 else None for n, c in enumerate(captions)]
    for name, column in (("plain", captions), ("lists", lists)):
        file = tmp_path / f"{name}.parquet"
        made = pa.table({"image": [f"{n}.png" for n in range(5000)], "caption": column})
        pq.write_table(made, file, row_group_size=900)
        with pytest.warns(MmpoisonWarning) if name == "lists" else nullcontext():
            pairs = load_pairs(file)
        wanted = [[c] for c in captions] if name == "plain" else [[c[0], "x"] for c in lists if c]
        assert list(captions_by_image(pairs).values()) == wanted


def test_equal_rows_are_joined_in_linear_time_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file can hold millions of equal rows of one image."""
    equal = {"image": ["a.jpg"] * 20_000, "caption": ["a dog"] * 20_000, "n": [1] * 20_000}
    pq.write_table(pa.table(equal), tmp_path / "pairs.parquet")
    begun = time.process_time()
    pairs = load_pairs(tmp_path / "pairs.parquet", own_columns=True)
    assert (len(pairs), len(pairs.images)) == (20_000, 1)
    assert time.process_time() - begun < 10  # quadratic: half a minute
    monkeypatch.setattr(arrow_rows, "MOST_TEXT", 1000 * arrow_rows.ROW_BYTES)
    monkeypatch.setattr(arrow_rows, "TEXT_PER_BYTE", 0)
    with pytest.warns(MmpoisonWarning, match="bomb"):
        assert len(load_pairs(tmp_path / "pairs.parquet")) < 1000
