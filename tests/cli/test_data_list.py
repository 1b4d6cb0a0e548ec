"""`mmpoison data list`: what is known, and what of it is on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.datasets import DATASETS, load_pairs
from mmpoison.images import PixelStore

Cli = Callable[..., Any]


@pytest.mark.parametrize("columns", [80, 160])
def test_nothing_is_cut(
    cli: Cli, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("mmpoison.cli.console.console._width", columns)
    for arguments in ((), ("--long",)):
        out = cli("data", "list", *arguments).out
        assert max(map(len, out.splitlines())) <= columns
        text = " ".join(out.split())
        for name in DATASETS:
            assert name in text
            assert " ".join(DATASETS[name].summary.split()) in text
        assert "…" not in out
        assert ("shows the required files" in text) == (not arguments)


def test_what_is_here(
    cli: Cli, fresh_cache: Path, square_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MMPOISON_DATA", str(tmp_path / "data"))
    shutil.copytree(square_folder, tmp_path / "data" / "flickr8k")
    cache, key = ContentCache(fresh_cache), CacheKey("data/openmoji", {})
    drawn = cache.path(key) / "scenes"
    shutil.copytree(square_folder, drawn)
    cache.describe(key, drawn.parent)
    known = json.loads(cli("data", "list", "--json").out)
    here = {entry["name"]: entry["here"] for entry in known["data_sets"]}
    assert here["flickr8k"] == [{"path": str(tmp_path / "data" / "flickr8k"), "images": 56}]
    assert here["openmoji"] == [{"path": str(drawn), "images": 56}]
    # and what is made from them when it is loaded
    assert here["flickr8k-b"] == here["flickr8k"]
    assert sum(map(len, here.values())) == 3
    assert "(56 images)" in " ".join(cli("data", "list").out.split())


def test_stored_pixels_are_listed(cli: Cli, fresh_cache: Path, square_folder: Path) -> None:
    assert "Decoded images" not in cli("data", "list").out
    kept = PixelStore.decode(load_pairs(square_folder), 32, in_memory=0)
    (entry,) = json.loads(cli("data", "list", "--json").out)["stored_pixels"]
    assert (entry["folder"], entry["images"], entry["size"]) == (str(kept.folder), 56, 32)
    assert "56 images of 32 pixels" in cli("data", "list").out
