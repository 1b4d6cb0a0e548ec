"""Own columns go through copies and filters: what goes in comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.conftest import write_tar_set

import mmpoison
from mmpoison.datasets import load_pairs, save_pairs
from mmpoison.errors import MmpoisonWarning
from mmpoison.pairs.folder import CAPTIONS_FILE


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(4):
        Image.new("RGB", (32, 32), (60 * n, 10, 200)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def folder(photos: Path) -> Path:
    """A pairs folder with keys of every kind, not the same in each line."""
    lines = [
        {"image": "0.png", "captions": ["a sheep", "a cow"], "score": 1, "ok": True, "tags": ["a", 1],
         "caption_columns": [{"id": 7}, {}]},
        {"image": "1.png", "captions": ["a dog"], "score": 0.5, "by": {"name": "Bo"}},
        {"image": "2.png", "captions": [], "split": "test", "ok": False, "big": 2**70},
        {"image": "3.png", "captions": ["a cat"], "score": None},
    ]  # fmt: skip
    (photos / CAPTIONS_FILE).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return photos


def _own(path: Path) -> list[Any]:
    """The own columns of a set by captions, whatever its images are called."""
    pairs = load_pairs(path, own_columns=True)
    found = []
    for line in pairs.lines(own_columns=True):
        own = {k: v for k, v in line.items() if k not in ("image", "label", "split")}
        found.append(own)
    return found


def test_keys_of_every_kind_are_saved(folder: Path, tmp_path: Path) -> None:
    pairs = load_pairs(folder, own_columns=True)
    shards = write_tar_set(pairs, tmp_path / "shards", 2)
    saved = save_pairs(load_pairs(shards, own_columns=True), tmp_path / "saved")
    assert _own(saved) == _own(shards) == _own(folder)
    found = _own(saved)
    assert found[0]["tags"] == ["a", 1]
    assert found[0]["caption_columns"] == [{"id": 7}, {}]
    assert found[1]["by"] == {"name": "Bo"}
    assert found[2]["ok"] is False


def test_types_of_parquet_are_kept(photos: Path, tmp_path: Path) -> None:

    source = photos / "own.parquet"
    columns = {
        "image": ["0.png", "1.png"],
        "caption": ["a sheep", "a cow"],
        "n": pa.array([1, None], pa.int32()),
        "x": [0.25, float("nan")],
        "who": pa.array(["Ann", "Bo"]).dictionary_encode(),
        "raw": [b"\x00", b"\x01"],
        "box": [[1, 2], []],
        "caption_columns": [['{"id": 7}'], None],
    }
    pq.write_table(pa.table(columns), source)
    # a column of bytes would be taken for the images
    paths: dict[str, Any] = {"image": "image"}
    save_pairs(load_pairs(source, own_columns=True, **paths), tmp_path / "out")
    assert _own(tmp_path / "out") == [
        {"captions": ["a sheep"], "n": 1, "x": 0.25, "who": "Ann", "box": [1, 2],
         "caption_columns": [{"id": 7}]},
        {"captions": ["a cow"], "who": "Bo", "box": []},
    ]  # fmt: skip


def test_hostile_columns_are_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    lines = [
        '{"image": "0.png", "captions": ["x"], "own": "\\ud800"}',
        '{"image": "1.png", "captions": ["x"], "caption_columns": [{}, {}, {"a": 1}]}',
        '{"image": "2.png", "captions": ["x"], "caption_columns": "all", "fine": 1}',
        json.dumps({"image": "3.png", "captions": ["x"], "long": "x" * (300 << 10)}),
    ]
    (photos / CAPTIONS_FILE).write_text("\n".join(lines) + "\n")
    with pytest.warns(MmpoisonWarning, match="left out for 4 reasons"):
        pairs = load_pairs(photos, strict=False, own_columns=True)
    assert len(pairs.problems) == 4
    assert _own(save_pairs(pairs, tmp_path / "out")) == [
        *([{"captions": ["x"]}] * 2),
        {"captions": ["x"], "fine": 1},
        {"captions": ["x"]},
    ]


# -- the filter ------------------------------------------------------------------------------------


def test_a_filter_keeps_the_columns_of_what_stays(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    pairs = load_pairs(square_folder)
    numbers = iter(range(10_000))
    own_lines = []
    for line in pairs.lines():
        line |= {
            "by": line["image"],
            "caption_columns": [{"nr": next(numbers)} for _ in line["captions"]],
        }
        own_lines.append(line)
    (source / CAPTIONS_FILE).write_text("\n".join(map(json.dumps, own_lines)) + "\n")
    by_number = {
        own["nr"]: (line["image"], caption)
        for line in own_lines
        for own, caption in zip(line["caption_columns"], line["captions"], strict=True)
    }
    from mmpoison.datasets.catalogue import NamedData

    done = mmpoison.scan(
        NamedData(str(source), root=square_folder),
        encoder=checkpoint,
        method="random-drop",
        out=tmp_path / "out",
        kept=tmp_path / "kept",
        lose=0.3,
        force=True,
        trusted="none",
        planted=False,
        progress=False,
    )
    assert 0 < done.dropped < done.pairs
    kept = load_pairs(tmp_path / "kept", own_columns=True)
    assert kept.own_columns is not None
    assert kept.images.own_columns is not None
    for number, pair in enumerate(kept):
        assert by_number[kept.own_columns[number]["nr"]] == (pair.image, pair.caption)
        assert kept.images.own_columns[kept.image[number]] == {"by": pair.image}
    assert len(kept) < len(by_number)


def test_reading_for_other_uses_costs_nothing(folder: Path) -> None:
    assert load_pairs(folder).images.own_columns is None
    assert load_pairs(folder).own_columns is None
