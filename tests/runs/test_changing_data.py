"""A data set that changes while it is read: said in one line that names the file, never used."""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import squares_recipe

import mmpoison
from mmpoison.datasets import load_pairs, save_pairs
from mmpoison.datasets import verify as pairs_check
from mmpoison.datasets.verify import load_to_verify, verify_pairs
from mmpoison.defenses.scan import scan as scan_embedded
from mmpoison.defenses.scan.read import embed as embed_source
from mmpoison.errors import InputError
from mmpoison.images import PixelStore, store
from mmpoison.images.sources import changed_files, file_states
from mmpoison.models import DualEncoder
from mmpoison.pairs import folder as pairs_folder
from mmpoison.pairs.table import TableStates
from mmpoison.runs import run as running
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run import run_recipe

Change = Callable[[Path], None]
IMAGE = "sheep/03.png"


def replace_image(folder: Path) -> None:
    """By another of the same size in bytes and with the same time of change."""
    path = folder / IMAGE
    old = path.stat()
    content = path.read_bytes()
    path.unlink()
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    if path.stat().st_ino == old.st_ino:  # the file system gave the number again
        path.write_bytes(content)


def rewrite_image(folder: Path) -> None:
    Image.new("RGB", (50, 50), "red").save(folder / IMAGE)


def remove_image(folder: Path) -> None:
    (folder / IMAGE).unlink()


def write_keeping_mtime(path: Path) -> None:
    """In place: size, inode and mtime stay."""
    old = path.stat()
    time.sleep(0.02)  # a file system may count time in steps of 10 ms
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))


def rewrite_captions(folder: Path) -> None:
    path = folder / "captions.jsonl"
    path.write_text(path.read_text().replace("picture", "painting"))


IMAGES = [replace_image, rewrite_image, remove_image]


def once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, act: Callable[[], None]) -> None:
    """Act once, right after the first call of a function."""
    function = getattr(where, name)
    left = [act]

    def wrapped(*given: Any, **options: Any) -> Any:
        result = function(*given, **options)
        if left:
            left.pop()()
        return result

    monkeypatch.setattr(where, name, wrapped)


def check(error: pytest.ExceptionInfo[InputError], folder: Path, change: Change) -> None:
    message = str(error.value)
    name = "captions.jsonl" if change is rewrite_captions else IMAGE
    assert message.startswith(f"{folder / name}: changed while the data set was read")
    assert message.endswith("stop the program that writes to the data set, and repeat the command")
    assert len(message.splitlines()) == 1


# -- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", IMAGES)
def test_states_see_a_change(own_square_folder: Path, change: Change) -> None:
    pairs = load_pairs(own_square_folder)
    before = file_states(pairs.root, pairs.images.ids)
    assert changed_files(pairs.root, pairs.images.ids, before) == []
    change(own_square_folder)
    assert changed_files(pairs.root, pairs.images.ids, before) == [IMAGE]


def test_tables_see_a_change_but_no_new_file(own_square_folder: Path) -> None:
    states = TableStates.of(own_square_folder)
    (own_square_folder / "labels.csv").write_text("a,b\n")
    states.check()
    (own_square_folder / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json: changed"):
        states.check()


def test_an_old_mtime_hides_no_change_and_a_link_is_none(
    own_square_folder: Path, tmp_path: Path
) -> None:
    pairs = load_pairs(own_square_folder)
    tables, images = TableStates.of(own_square_folder), file_states(pairs.root, pairs.images.ids)
    save_pairs(pairs, tmp_path / "linked", images="link")
    assert (own_square_folder / IMAGE).stat().st_nlink > 1
    assert changed_files(pairs.root, pairs.images.ids, images) == []
    tables.check()
    write_keeping_mtime(own_square_folder / "captions.jsonl")
    assert tables.changed() == [own_square_folder / "captions.jsonl"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(own_square_folder / IMAGE, "x.png")
    before = file_states(tmp_path, ["a.tar/x.png"])
    write_keeping_mtime(tmp_path / "a.tar")
    assert changed_files(tmp_path, ["a.tar/x.png"], before) == ["a.tar/x.png"]


def test_a_table_that_changes_while_it_is_loaded(
    own_square_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, pairs_folder, "_entry", lambda: rewrite_captions(own_square_folder))
    with pytest.raises(InputError) as error:
        load_pairs(own_square_folder)
    check(error, own_square_folder, rewrite_captions)


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
@pytest.mark.parametrize("change", IMAGES)
def test_decoding(
    own_square_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    in_memory: int,
) -> None:
    pairs = load_pairs(own_square_folder)
    kept = tmp_path / "cache"
    with monkeypatch.context() as patch:
        once(patch, store, "decode_images", lambda: change(own_square_folder))
        with pytest.raises(InputError) as error:
            PixelStore.decode(pairs, 16, cache=kept, in_memory=in_memory, broken="drop")
        check(error, own_square_folder, change)
    # what was decoded meanwhile does not stand for the old file
    Image.new("RGB", (50, 50), "blue").save(own_square_folder / IMAGE)
    again = PixelStore.decode(pairs, 16, cache=kept, in_memory=in_memory)
    row = int(np.flatnonzero(pairs.images.ids == IMAGE)[0])
    assert (again.take(np.array([row], dtype=np.int32)) == [0, 0, 255]).all()


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [replace_image, rewrite_captions])
def test_verify(own_square_folder: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    pairs, name, faults = load_to_verify(own_square_folder)
    once(monkeypatch, pairs_check, "decode_images", lambda: change(own_square_folder))
    found = verify_pairs(pairs, format=name, manifest_faults=faults)
    changed = "captions.jsonl" if change is rewrite_captions else IMAGE
    assert next(line for line in found.problems if "changed while" in line).startswith(
        f"{own_square_folder / changed}: changed while the data set was read"
    )


@pytest.mark.parametrize(
    ("method", "moment"),
    [
        ("relevance-filter", "judged"),
        ("relevance-filter", "written"),
        ("local-density", "written"),
    ],
)
@pytest.mark.parametrize("change", [replace_image, rewrite_captions])
def test_scan(
    own_square_folder: Path,
    tmp_path: Path,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_encoder: Callable[..., DualEncoder],
    change: Change,
    method: str,
    moment: str,
) -> None:
    """Above all an image that is replaced after it was judged: it would go through unseen."""
    where, name = (
        (embed_source, "embed_pairs") if moment == "judged" else (scan_embedded, "judge_pairs")
    )
    once(monkeypatch, where, name, lambda: change(own_square_folder))
    with pytest.raises(InputError) as error:
        mmpoison.scan(
            own_square_folder,
            encoder=make_encoder(7),
            method=method,
            out=tmp_path / "out",
            kept=tmp_path / "kept",
            lose=0.2,
            progress=False,
        )
    check(error, own_square_folder, change)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("change", [rewrite_image, rewrite_captions])
def test_run(
    own_square_folder: Path,
    tmp_path: Path,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    change: Change,
) -> None:
    recipe = parse_recipe(squares_recipe(own_square_folder, checkpoint), "test")
    once(monkeypatch, running, "held_folder", lambda: change(own_square_folder))
    with pytest.raises(InputError) as error:
        run_recipe(recipe, tmp_path / "out")
    check(error, own_square_folder, change)
    assert not (tmp_path / "out" / "metrics.json").exists()
