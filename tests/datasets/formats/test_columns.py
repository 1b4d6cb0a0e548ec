"""Usual names of columns and splits, and paths in other people's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpoison.datasets.formats.columns import (
    path_in_root,
    split_of_path,
)
from mmpoison.errors import InputError


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
    with pytest.raises(InputError, match="is a URL, not a file"):
        path_in_root("https://a/1.jpg", tmp_path)
