"""Usual names of columns and splits, and paths in other people's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpoison.datasets.formats.columns import (
    find_column,
    path_in_root,
    split_name,
    split_of_path,
)
from mmpoison.errors import InputError


@pytest.mark.parametrize(
    ("names", "option", "found"),
    [
        (["path", "image"], "image", "image"),
        (["Title", "TEXT"], "caption", "Title"),
        (["a", "b"], "image", None),
    ],
)
def test_the_likeliest_name_wins(names: list[str], option: str, found: str | None) -> None:
    assert find_column(names, {}, option, "x") == found


def test_the_users_choice_is_taken_as_it_is() -> None:
    assert find_column(["image", "b"], {"image": "b"}, "image", "x") == "b"
    with pytest.raises(InputError, match=r"a\.csv: image: unknown column 'imag'"):
        find_column(["image"], {"image": "imag"}, "image", "a.csv")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAINING", "train"), ("restval", "train"), ("val", "val"),
        (" valid ", "val"), ("dev", "val"), ("test", "test"), ("testing", "test"),
        ("", None), (" ", None), (None, None), ("holdout", "holdout"),
    ],
)  # fmt: skip
def test_splits(name: str | None, split: str | None) -> None:
    assert split_name(name) == split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00001.parquet", "train"), ("data/validation.parquet", "val"),
        ("default/test/0000.parquet", "test"), ("cc3m-train-0001.tar", "train"),
        ("train/test-0.tar", "test"), ("latest/0.tar", None), ("trained.parquet", None),
    ],
)  # fmt: skip
def test_splits_of_paths(path: str, split: str | None) -> None:
    assert split_of_path(path) == split


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in (tmp_path / "link", tmp_path / "real"):
        assert path_in_root(f"{tmp_path}/real/a/1.jpg", root) == "a/1.jpg"
        assert path_in_root("a/1.jpg", root) == "a/1.jpg"
    assert path_in_root(f"{tmp_path}/link/1.jpg", tmp_path / "link") == "1.jpg"
    # whatever is left absolute or climbs is refused by the builder
    for path in (f"{tmp_path}/1.jpg", f"{tmp_path}/real/../1.jpg", "../1.jpg"):
        assert path_in_root(path, tmp_path / "real") == path
    with pytest.raises(InputError, match="is an address, not a file"):
        path_in_root("https://a/1.jpg", tmp_path)
