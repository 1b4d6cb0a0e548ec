"""The contract of the formats that hold tables: what each reads, joins, refuses and says, in one place."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import captions_by_image, write_tar

from mmpoison.datasets import load_pairs, stream_pairs
from mmpoison.errors import InputError, MmpoisonWarning

Columns = Mapping[str, Sequence[Any]]


def write_csv(folder: Path, columns: Columns) -> Path:
    with (folder / "a.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return folder / "a.csv"


def write_parquet(folder: Path, columns: Columns) -> Path:
    pq.write_table(pa.table(dict(columns)), folder / "a.parquet", row_group_size=2)
    return folder / "a.parquet"


def write_arrow(folder: Path, columns: Columns) -> Path:
    table = pa.table(dict(columns))
    with (
        pa.OSFile(str(folder / "a.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as to,
    ):
        to.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    return folder / "a.arrow"


def write_shard(folder: Path, columns: Columns) -> Path:
    members: dict[str, bytes] = {}
    for n, row in enumerate(zip(*columns.values(), strict=True)):
        facts = dict(zip(columns, row, strict=True))
        members |= {f"{n}.jpg": b"x", f"{n}.json": json.dumps(facts).encode()}
    return write_tar(folder / "00000.tar", members)


def write_lines(folder: Path, columns: Columns) -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    lines = [json.dumps({**row, "captions": [row.pop("caption")]}) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


# what says a row's own image, and where a table is one file of several
TABLES: dict[str, Callable[[Path, Columns], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "hugging-face": write_arrow,
}
SHARDS = {"webdataset": write_shard}
EVERY = {**TABLES, **SHARDS, "pairs-folder": write_lines}
SPLITS = ["val", "test", "train"]


@pytest.mark.parametrize("name", EVERY)
def test_a_table_is_read_whole_and_in_pieces(tmp_path: Path, name: str) -> None:
    columns: Columns = {
        "image": [f"a/{n}.jpg" for n in range(3)],
        "caption": list("xyz"),
        "label": ["sheep", None, "cow"],
        "split": SPLITS if name == "pairs-folder" else ["validation", "test", None],
    }
    EVERY[name](tmp_path, columns)
    pairs = load_pairs(tmp_path)
    lines = list(pairs.lines())
    assert [line["captions"] for line in lines] == [["x"], ["y"], ["z"]]
    assert [line["label"] for line in lines] == ["sheep", None, "cow"]
    assert [line["split"] for line in lines] == SPLITS
    assert pairs.root == tmp_path
    assert [
        line for piece in stream_pairs(tmp_path, images_at_once=2) for line in piece.lines()
    ] == lines


@pytest.mark.parametrize("name", [*TABLES, *SHARDS])
def test_columns_by_option(tmp_path: Path, name: str) -> None:
    columns = {
        "a": ["1.jpg"],
        "b": ["x"],
        "c": ["k"],
        "d": ["test"],
        "image": ["no"],
        "text": ["no"],
    }
    EVERY[name](tmp_path, columns)
    options: dict[str, Any] = {"caption": "b", "label": "c", "split": "d"}
    if name in TABLES:
        options["image"] = "a"
    (line,) = load_pairs(tmp_path, **options).lines()
    assert [line["captions"], line["label"], line["split"]] == [["x"], "k", "test"]
    assert line["image"] in ("1.jpg", "00000.tar/0.jpg")


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_an_image_join_wherever_images_lie(tmp_path: Path, name: str) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    images, labels = [f"{root}/a/1.jpg", "2.jpg", "a/1.jpg", "2.jpg"], ["sheep", "cow", None, "pig"]
    TABLES[name](tmp_path, {"image": images, "caption": list("wxyz"), "label": labels})
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(tmp_path, images=root)
    assert pairs.root == root
    assert captions_by_image(pairs) == {"a/1.jpg": ["w", "y"], "2.jpg": ["x", "z"]}
    assert pairs.classes == ("cow", "sheep")
    (said,) = pairs.problems
    assert "label 'pig' of '2.jpg' is 'cow' in " in said


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("image", "split", "problem"),
    [
        (None, "train", "has no image"),
        ("../1.jpg", "train", "image path '../1.jpg' leaves the folder"),
        ("/etc/1.jpg", "train", "image path '/etc/1.jpg' leaves the folder"),
        ("C:\\1.jpg", "train", "image path 'C:"),
        ("http://a.b/1.jpg", "train", "'http://a.b/1.jpg' is an address"),
        ("1.jpg", "holdout", "split 'holdout' is none of train, val, test"),
    ],
)
def test_a_broken_row_is_left_out_and_named(
    tmp_path: Path, name: str, image: str | None, split: str, problem: str
) -> None:
    splits = ["train", split, "train"]
    columns: Columns = {"image": ["0.jpg", image, "2.jpg"], "caption": list("xyz"), "split": splits}
    file = TABLES[name](tmp_path, columns)
    with pytest.warns(MmpoisonWarning, match="left out: "):
        pairs = load_pairs(tmp_path)
    assert captions_by_image(pairs) == {"0.jpg": ["x"], "2.jpg": ["z"]}
    (said,) = pairs.problems
    assert problem in said
    assert f"{file.name} {'line 3' if name == 'csv' else 'row 1'}: " in said


@pytest.mark.parametrize("name", ["parquet", "hugging-face", "webdataset"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "set").mkdir()
    file = EVERY[name](tmp_path / "set", {"image": ["1.jpg"], "caption": ["x"]})
    file.rename(tmp_path / f"elsewhere{file.suffix}")
    file.symlink_to(tmp_path / f"elsewhere{file.suffix}")
    with pytest.raises(InputError, match=f"{file.name}: leads out of .*, it is refused"):
        load_pairs(tmp_path / "set", format=name)
