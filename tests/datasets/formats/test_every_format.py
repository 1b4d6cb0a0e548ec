"""The contract of the formats that hold tables: what each reads, joins, refuses and says, in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import captions_by_image
from tests.datasets.formats.conftest import (
    Columns,
    write_arrow,
    write_csv,
    write_lines,
    write_parquet,
    write_shard,
)

from mmpoison.datasets import load_pairs, stream_pairs
from mmpoison.errors import InputError, MmpoisonWarning

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
    pieces = list(stream_pairs(tmp_path, images_at_once=2))
    assert [len(piece.images) for piece in pieces] == [2, 1]
    assert [line for piece in pieces for line in piece.lines()] == lines


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
        ("http://a.b/1.jpg", "train", "'http://a.b/1.jpg' is a URL"),
        ("1.jpg", "holdout", "split 'holdout' is not one of train, val, test"),
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
    with pytest.raises(InputError, match=f"{file.name}: points outside .*, so it is refused"):
        load_pairs(tmp_path / "set", format=name)
