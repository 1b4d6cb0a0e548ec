"""The pairs folder: what is written is read back the same, what is broken is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal, write_parquet_set, write_tar, write_tar_set

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.verify import verify_pairs
from mmpoison.errors import InputError
from mmpoison.images.sources import NameClash, image_bytes
from mmpoison.pairs.builder import check_relative
from mmpoison.pairs.folder import load_pairs_folder, restore_clean

GOOD: dict[str, Any] = {"image": "a.jpg", "captions": ["a sheep"], "label": "sheep"}


def same(first: PairDataset, second: PairDataset) -> bool:
    return (
        list(first.images.ids) == list(second.images.ids)
        and list(first.captions) == list(second.captions)
        and list(first.image) == list(second.image)
        and list(first.source) == list(second.source)
        and first.fingerprint == second.fingerprint
        and first.manifest == second.manifest
    )


# -- round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_set_comes_back_exactly(squares: PairDataset, tmp_path: Path, mode: Any) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13, mode=mode).poison(squares, seed=4)
    again = load_pairs(save_pairs(poisoned, tmp_path / "out"))
    assert same(poisoned, again)
    assert int(again.poisoned.sum()) == 13
    # and once more, from the copy
    assert same(poisoned, load_pairs(save_pairs(again, tmp_path / "twice")))
    clean = save_pairs(squares, tmp_path / "clean")
    assert same(squares, load_pairs(clean))
    assert not (clean / "manifest.json").exists()


# -- saving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", ["link", "copy", "no links"])
def test_link_shares_the_bytes_and_copy_does_not(
    squares: PairDataset,
    tmp_path: Path,
    square_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: Any,
) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    if images == "no links":
        # a file system that cannot link: copies
        monkeypatch.setattr(os, "link", no_links)
    # an empty folder may be used
    (tmp_path / "out").mkdir()
    out = save_pairs(squares, tmp_path / "out", images="copy" if images == "copy" else "link")
    for image_id in squares.images.ids:
        shares = (out / image_id).stat().st_ino == (square_folder / image_id).stat().st_ino
        assert shares == (images == "link")
        assert (out / image_id).read_bytes() == (square_folder / image_id).read_bytes()


@pytest.mark.parametrize("name", ["captions.jsonl", "manifest.json"])
def test_an_image_cannot_take_the_place_of_the_table(
    squares: PairDataset, own_square_folder: Path, tmp_path: Path, name: str
) -> None:
    """An image called `captions.jsonl` must not put the clean table over the poisoned one."""
    lines = [*squares.lines(), {"image": name, "captions": ["x"], "label": None, "split": "train"}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (own_square_folder / "captions.jsonl").write_text(text)
    try:
        poisoned = SingleTargetLabel("sheep2aeroplane", pairs=3).poison(
            load_pairs(own_square_folder)
        )
        out = save_pairs(poisoned, tmp_path / "out")
    except InputError:
        return
    assert load_pairs(out).fingerprint == poisoned.fingerprint


def test_saving_does_not_fetch_files_from_outside(own_square_folder: Path, tmp_path: Path) -> None:
    """A symbolic link out of the folder is refused when it is read, and so when it is copied."""
    (tmp_path / "secret.png").write_bytes((own_square_folder / "sofa/03.png").read_bytes())
    pairs = load_pairs(own_square_folder)
    (own_square_folder / "sofa/03.png").unlink()
    (own_square_folder / "sofa/03.png").symlink_to(tmp_path / "secret.png")
    assert "points outside" in refusal(save_pairs, pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- images inside containers ----------------------------------------------------------------------


def content(pairs: PairDataset) -> list[dict[str, Any]]:
    """Everything but the paths, in order, with the bytes of the images."""
    return [{**line, "image": image_bytes(pairs.root, line["image"])} for line in pairs.lines()]


@pytest.mark.parametrize("write", [write_parquet_set, write_tar_set])
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_a_poisoned_set_of_shards_is_saved_as_files(
    squares: PairDataset, tmp_path: Path, write: Any, mode: Any
) -> None:
    """`save_pairs` takes images out of containers, and the manifest follows their new names."""
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13, mode=mode).poison(squares, seed=4)
    shards = load_pairs(write(poisoned, tmp_path / "shards", 20))
    again = load_pairs(save_pairs(shards, tmp_path / "files"))
    assert content(again) == content(shards) == content(poisoned)
    assert list(again.source) == list(shards.source) == list(poisoned.source)
    assert all((again.root / image_id).is_file() for image_id in again.images.ids)
    assert all(str(image_id).endswith(".png") for image_id in again.images.ids)
    assert verify_pairs(shards).problems == verify_pairs(again).problems == []
    # without its images the table keeps the ids, which need the shards
    table = load_pairs(save_pairs(shards, tmp_path / "table", images="none"), images=shards.root)
    assert content(table) == content(poisoned)


@pytest.mark.parametrize(
    ("files", "members", "clash"),
    [
        (["a/1.jpg"], ["2.jpg"], None),
        (["a/1.jpg"], ["1.jpg"], "a/1.jpg"),
        ([], ["1.jpg", "1.jpg/2.jpg"], "a/1.jpg/2.jpg"),
        ([], ["1.jpg/2.jpg", "1.jpg"], "a/1.jpg"),
    ],
)
def test_two_images_with_one_name_are_refused(
    tmp_path: Path, files: list[str], members: list[str], clash: str | None
) -> None:
    """Only images inside containers can get the name of another one, or of its folder."""
    write_tar(tmp_path / "a.tar", dict.fromkeys(members, b"a tar"))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"a precious file")
    ids = [*files, *(f"a.tar/{name}" for name in members)]
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{i},x\n" for i in ids))
    pairs = load_pairs(tmp_path / "pairs.csv")
    assert len(pairs) == len(ids)
    if clash is None:
        assert content(load_pairs(save_pairs(pairs, tmp_path / "out"))) == content(pairs)
    else:
        with pytest.raises(NameClash, match=f"another image of the source has the name '{clash}'"):
            save_pairs(pairs, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    for name in files:
        assert (tmp_path / name).read_bytes() == b"a precious file"


# -- bad input -------------------------------------------------------------------------------------


def test_no_pairs_folder(tmp_path: Path) -> None:
    assert refusal(load_pairs_folder, tmp_path / "out").endswith("no such folder")
    assert "has no captions.jsonl, so it is not" in refusal(load_pairs_folder, tmp_path)


@pytest.mark.parametrize("lines", [(), ("", "   ")])
def test_empty_file(write_lines: Callable[..., Path], lines: tuple[str, ...]) -> None:
    assert refusal(load_pairs, write_lines(*lines)).endswith("captions.jsonl: contains no images")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"image": "b.jpg", "captions": [', "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
        (b'{"image": "b.jpg", "captions": ["caf\xe9"]}', "not UTF-8"),
        ({"captions": ["x"]}, "Object missing required field `image`"),
        ({"image": "b.jpg", "captions": [], "split": "dev"}, "split 'dev' is not one of train"),
        ({"image": "a.jpg", "captions": ["x"]}, "image 'a.jpg' occurs twice"),
        # `./a.jpg` is `a.jpg`: pairs of one image would count as pairs of two
        ({"image": "./a.jpg", "captions": ["x"]}, ""),
        # half a surrogate pair cannot be written, hashed or tokenised later on
        ('{"image": "b.jpg", "captions": ["\\ud800"]}', ""),
        ('{"image": "b.jpg", "captions": [], "categories": ["\\ud800"]}', "is not text"),
    ],
)
def test_broken_line(
    write_lines: Callable[..., Path], line: dict[str, Any] | str | bytes, says: str
) -> None:
    message = refusal(load_pairs, write_lines(GOOD, "", line))
    assert "captions.jsonl line 3: " in message
    assert says in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "path",
    ["../x.jpg", "/etc/passwd", "a\\b.jpg", "c:x.jpg", "", "a\x00.jpg"],
)
def test_a_path_that_leaves_the_folder(write_lines: Callable[..., Path], path: str) -> None:
    message = refusal(load_pairs, write_lines(GOOD, {"image": path, "captions": ["x"]}))
    assert "line 2: " in message
    assert "leaves the folder, so it is refused" in message


@given(st.lists(st.sampled_from(["..", ".", "a", "b.jpg", "", "/", "\\", "C:", "~"]), max_size=5))
def test_an_accepted_path_stays_in_its_folder(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        accepted = check_relative(path, "line 1")
    except InputError:
        return
    resolved = os.path.normpath(os.path.join("/root/folder", accepted))  # noqa: PTH118
    assert resolved == "/root/folder" or resolved.startswith("/root/folder/")


# -- manifests that do not fit ---------------------------------------------------------------------


@pytest.fixture
def poisoned_folder(squares: PairDataset, tmp_path: Path) -> Path:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=7).poison(squares)
    return save_pairs(poisoned, tmp_path / "poisoned", images="none")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    (folder / "manifest.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    "broken",
    [
        lambda manifest: manifest["counts"].update(training_pairs=0),
        lambda manifest: manifest["counts"].update(training_pairs="many"),
        lambda manifest: manifest.update(seed="none"),
        lambda manifest: manifest.update(mode="add\n"),
        lambda manifest: manifest["pairs"][0].pop("goal"),
        lambda manifest: manifest.pop("clean_fingerprint"),
    ],
)
def test_a_broken_manifest(poisoned_folder: Path, broken: Any) -> None:
    edit(poisoned_folder, broken)
    assert "manifest.json: not a poison manifest" in refusal(load_pairs, poisoned_folder)


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_restore_clean_undoes_the_poison(squares: PairDataset, mode: Any) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13, mode=mode).poison(squares, seed=2)
    restored = restore_clean(poisoned)
    assert not restored.poisoned.any()
    if mode == "add":
        assert restored.fingerprint == squares.fingerprint
    assert sorted(zip(restored.image, restored.captions, strict=True)) == sorted(
        zip(squares.image, squares.captions, strict=True)
    )
    assert "nothing to undo" in refusal(restore_clean, squares)


# -- size ------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, time
import mmpoison.pairs.folder as folder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begun = time.process_time()
pairs = folder.load_pairs_folder(sys.argv[1])
seconds = time.process_time() - begun
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(pairs), seconds, (after - before) / 1024)
"""


@pytest.mark.slow
def test_300_000_pairs_load_in_seconds_and_little_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"word{n}" for n in range(2000)])
    with (tmp_path / "captions.jsonl").open("w") as stream:
        for number in range(60_000):
            captions = [" ".join(row) for row in rng.choice(vocabulary, (5, 10))]
            label = None if number % 4 else f"class{number % 80}"
            line = {
                "image": f"part{number % 100}/{number:08d}.jpg",
                "captions": captions,
                "label": label,
                "split": "test" if number % 20 == 0 else "train",
            }
            stream.write(json.dumps(line) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, seconds, megabytes = done.stdout.split()
    assert int(count) == 300_000
    # processor time: other jobs on the machine do not count
    assert float(seconds) < 7.5
    assert float(megabytes) < 350
