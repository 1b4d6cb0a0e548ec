"""Conversion: every format round trips, poison stays marked, and a killed conversion goes on."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.conftest import refusal, write_tar

from mmpoison.attacks import SingleTargetImage, SingleTargetLabel
from mmpoison.datasets import (
    DATASETS,
    ImageTable,
    PairDataset,
    load_pairs,
    save_pairs,
    stream_pairs,
)
from mmpoison.datasets import convert as module
from mmpoison.datasets.convert import convert_pairs as convert
from mmpoison.datasets.verify.pairs_check import verify_pairs
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images.sources import NameClash, image_bytes
from mmpoison.pairs.folder import restore_clean

FORMATS = ("pairs-folder", "parquet", "webdataset")
Snapshot = Callable[[Path], dict[str, bytes]]


def content(pairs: PairDataset) -> list[dict[str, Any]]:
    """Everything but the paths, in order, with the bytes of the images."""
    return [{**line, "image": image_bytes(pairs.root, line["image"])} for line in pairs.lines()]


def poison_of(pairs: PairDataset) -> list[tuple[int, int, str]]:
    rows = pairs.poisoned.nonzero()[0]
    return [(int(pairs.image[r]), int(pairs.source[r]), pairs.captions[r]) for r in rows]


@pytest.fixture(scope="module")
def rich_folder(squares: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The squares with categories, and an image without captions; never write into it."""
    table = squares.images
    categories = [
        (squares.images.label(n) or "thing", "hill") if n % 3 else () for n in range(len(table))
    ]
    labels = [table.label(n) for n in range(len(table))]
    splits = [line["split"] for line in squares.lines()]
    images = ImageTable.build(table.ids, labels, splits, table.root, categories)
    kept = squares.image != 4
    pairs = PairDataset.build(images, squares.captions[kept], squares.image[kept])
    out = save_pairs(pairs, tmp_path_factory.mktemp("rich") / "rich")
    (out / "README.md").write_text("from a friend")
    return out


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", FORMATS)
def test_a_set_survives_two_conversions(
    rich_folder: Path, tmp_path: Path, first: Any, second: Any
) -> None:
    wanted = content(load_pairs(rich_folder))
    done = convert(rich_folder, tmp_path / "a", to=first, images_per_shard=20)
    assert (done.images, done.pairs, done.shards, done.left_out) == (56, 275, 3, 0)
    assert content(load_pairs(tmp_path / "a")) == wanted
    convert(tmp_path / "a", tmp_path / "b", to=second, images_per_shard=13, workers=3)
    assert content(load_pairs(tmp_path / "b")) == wanted
    # it stands by itself, and where it comes from is said in it
    shutil.rmtree(tmp_path / "a")
    assert content(load_pairs(tmp_path / "b")) == wanted
    assert (tmp_path / "b" / "README.md").read_text() == "from a friend"
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


@pytest.mark.parametrize("to", FORMATS)
def test_pieces_of_a_converted_set(rich_folder: Path, tmp_path: Path, to: Any) -> None:
    convert(rich_folder, tmp_path / "out", to=to, images_per_shard=20)
    pieces = list(stream_pairs(tmp_path / "out", images_at_once=25))
    assert [len(piece.images) for piece in pieces] == [25, 25, 6]
    assert [line for p in pieces for line in content(p)] == content(load_pairs(rich_folder))


def test_csv_and_back(squares: PairDataset, tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption", "label", "split"])
        for line in squares.lines():
            for caption in line["captions"]:
                writer.writerow([line["image"], caption, line["label"], line["split"]])
    loaded = load_pairs(tmp_path / "pairs.csv", images=squares.root)
    assert loaded.fingerprint == squares.fingerprint
    convert(
        tmp_path / "pairs.csv", tmp_path / "out", to="webdataset", options={"images": squares.root}
    )
    assert content(load_pairs(tmp_path / "out")) == content(squares)


def test_a_plain_set_keeps_its_fingerprint(square_folder: Path, tmp_path: Path) -> None:
    wanted = load_pairs(square_folder)
    convert(square_folder, tmp_path / "a", to="pairs-folder")
    assert load_pairs(tmp_path / "a").fingerprint == wanted.fingerprint
    convert(square_folder, tmp_path / "b", to="parquet", images="none")
    assert load_pairs(tmp_path / "b", images=square_folder).fingerprint == wanted.fingerprint
    assert load_pairs(tmp_path / "b", images=square_folder).root == square_folder


@pytest.mark.parametrize("policy", ["link", "copy", "none"])
def test_images_of_a_pairs_folder(square_folder: Path, tmp_path: Path, policy: Any) -> None:
    convert(square_folder, tmp_path / "out", to="pairs-folder", images=policy)
    image = tmp_path / "out" / "sheep" / "00.png"
    assert image.exists() == (policy != "none")
    if policy != "none":
        assert image.samefile(square_folder / "sheep" / "00.png") == (policy == "link")


captions = st.lists(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3),
    min_size=1,
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(captions=captions, to=st.sampled_from(FORMATS))
def test_any_text_survives(tmp_path: Path, captions: list[list[str]], to: Any) -> None:
    for name in ("in", "out"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "captions.jsonl").open("w") as stream:
        for n, texts in enumerate(captions):
            (tmp_path / "in" / f"{n}.gif").write_bytes(b"GIF89a" + bytes([n]))
            stream.write(json.dumps({"image": f"{n}.gif", "captions": texts}) + "\n")
    convert(tmp_path / "in", tmp_path / "out", to=to, images_per_shard=2)
    assert content(load_pairs(tmp_path / "out")) == content(load_pairs(tmp_path / "in"))


def test_labels_on_the_way(square_folder: Path, tmp_path: Path) -> None:
    rows = ["image,label", "sheep/00.png,goat", "unlabelled/03.png,bush"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    convert(square_folder, tmp_path / "a", to="parquet", labels=tmp_path / "labels.csv")
    assert {"goat", "bush"} <= set(load_pairs(tmp_path / "a").classes)
    convert(square_folder, tmp_path / "b", to="webdataset", keywords=["thing=thing"])
    assert load_pairs(tmp_path / "b").counts()["classes"]["thing"] == 8


def test_a_data_set_of_the_hub(
    squares: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_hub(hub: str, *, config: str | None = None, images: str | None = None) -> PairDataset:
        asked.append((hub, {"config": config}))
        return squares

    source = replace(DATASETS["hugging-face"], load_address=load_hub)
    monkeypatch.setitem(DATASETS._items, "hugging-face", source)
    convert("hf:org/name", tmp_path / "out", to="parquet", options={"config": "small"})
    assert asked == [("org/name", {"config": "small"})]
    assert content(load_pairs(tmp_path / "out")) == content(squares)
    message = refusal(convert, "hf:org/name", tmp_path / "b", to="parquet", options={"colour": 1})
    assert message.startswith("hf:org/name has no option 'colour': it has config, ")


# -- other readers ---------------------------------------------------------------------------------


def test_the_webdataset_library_reads_the_shards(rich_folder: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the extra data")
    convert(rich_folder, tmp_path / "out", to="webdataset", images_per_shard=20)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    pairs = load_pairs(rich_folder)
    assert len(samples) == len(pairs.images)
    for made, line in zip(samples, pairs.lines(), strict=True):
        assert made["png"].size == (40, 36)
        assert made.get("txt") == (line["captions"][0] if line["captions"] else None)
        assert made["json"]["image"] == line["image"]
        assert made["json"]["key"] == made["__key__"]
    assert samples[20]["__key__"] == "000010000"
    assert json.loads((tmp_path / "out" / "00000_stats.json").read_text())["successes"] == 20


def test_the_datasets_library_reads_the_files(rich_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra data")
    convert(rich_folder, tmp_path / "out", to="parquet", images_per_shard=20)
    files = sorted(map(str, (tmp_path / "out").glob("*.parquet")))
    made = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert made.features["image"] == datasets.Image()
    for row, line in zip(made, load_pairs(rich_folder).lines(), strict=True):
        assert row["image"].size == (40, 36)
        assert row["captions"] == line["captions"]
        assert row["label"] == line["label"]
    # and what it saves is read here
    made.save_to_disk(tmp_path / "saved")
    assert content(load_pairs(tmp_path / "saved")) == content(load_pairs(rich_folder))


def test_row_groups_are_small(
    square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpoison.datasets.formats.shard_writers.ROWS_IN_GROUP", 10)
    convert(square_folder, tmp_path / "out", to="parquet")
    metadata = pq.ParquetFile(tmp_path / "out" / "part-00000.parquet").metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [10] * 5 + [
        6
    ]


# -- poison ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_poison_stays_marked(
    squares: PairDataset, square_folder: Path, tmp_path: Path, to: Any, mode: Any
) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13, mode=mode).poison(squares, seed=4)
    save_pairs(poisoned, tmp_path / "poisoned")
    convert(tmp_path / "poisoned", tmp_path / "out", to=to, images_per_shard=20)
    again = load_pairs(tmp_path / "out")
    assert content(again) == content(poisoned)
    assert poison_of(again) == poison_of(poisoned)
    assert again.manifest is not None
    assert again.manifest.goals == ("sheep2aeroplane",)
    # and once more, to files
    convert(tmp_path / "out", tmp_path / "back", to="pairs-folder")
    back = load_pairs(tmp_path / "back")
    assert poison_of(back) == poison_of(poisoned)
    assert verify_pairs(again).problems == []
    if mode == "add":
        # the fingerprint is that of the clean set in the same format
        convert(square_folder, tmp_path / "clean", to=to, images_per_shard=20)
        clean = load_pairs(tmp_path / "clean")
        assert restore_clean(again).fingerprint == clean.fingerprint
        assert again.manifest.clean_fingerprint == clean.fingerprint
        assert verify_pairs(again, clean=clean).problems == []


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_poison_on_a_test_image_stays_training_data(
    squares: PairDataset, tmp_path: Path, to: Any, mode: Any
) -> None:
    """Attack I: one image has pairs in two splits, in every format."""
    poisoned = SingleTargetImage("sheep2aeroplane", pairs=13, mode=mode).poison(squares, seed=4)
    save_pairs(poisoned, tmp_path / "poisoned")
    convert(tmp_path / "poisoned", tmp_path / "out", to=to, images_per_shard=20)
    convert(tmp_path / "out", tmp_path / "back", to="pairs-folder")
    for folder in ("poisoned", "out", "back"):
        again = load_pairs(tmp_path / folder)
        assert again.counts() == poisoned.counts()
        assert again.select(split="train", poisoned=True).counts()["poisoned"] == 13
        assert not again.select(split="test").poisoned.any()
        assert again.poisoning_rate == poisoned.poisoning_rate
        manifest = again.manifest
        assert manifest is not None
        assert manifest.fingerprint == again.fingerprint
        (target,) = manifest.target_images.values()
        assert {pair.poisoned_image for pair in manifest.pairs} == {target}
        assert target in again.images.ids
        assert verify_pairs(again).problems == []


@pytest.mark.parametrize("to", ["parquet", "webdataset"])
def test_a_poisoned_set_of_shards_can_be_saved_as_files(
    squares: PairDataset, tmp_path: Path, to: Any
) -> None:
    """`save_pairs` takes images out of containers, and the manifest follows their new names."""
    convert(squares.root, tmp_path / "shards", to=to, images_per_shard=20)
    clean = load_pairs(tmp_path / "shards")
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13, mode="add").poison(clean, seed=4)
    again = load_pairs(save_pairs(poisoned, tmp_path / "files"))
    assert content(again) == content(poisoned)
    assert poison_of(again) == poison_of(poisoned)
    assert all((again.root / image_id).is_file() for image_id in again.images.ids)
    assert all(str(image_id).endswith(".png") for image_id in again.images.ids)
    assert verify_pairs(again).problems == []
    # without its images the table keeps the ids, which need the shards
    table = load_pairs(save_pairs(poisoned, tmp_path / "table", images="none"), images=clean.root)
    assert content(table) == content(poisoned)


def test_a_poisoned_set_is_not_converted_in_part(squares: PairDataset, tmp_path: Path) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", pairs=13).poison(squares, seed=4)
    folder = save_pairs(poisoned, tmp_path / "poisoned", images="copy")
    (folder / "sofa" / "03.png").unlink()
    assert "whole or not at all" in refusal(convert, folder, tmp_path / "out", to="parquet")
    assert not (tmp_path / "out").exists()


# -- what is left out ------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_left_out_is_written_down(own_square_folder: Path, tmp_path: Path, to: Any) -> None:
    wanted = content(load_pairs(own_square_folder))
    (own_square_folder / "sheep" / "01.png").unlink()
    (own_square_folder / "sofa" / "02.png").unlink()
    (own_square_folder / "sofa" / "02.png").symlink_to("/etc/passwd")
    with (own_square_folder / "captions.jsonl").open("a") as stream:
        stream.write('{"image": "../x.png", "captions": ["x"]}\n')
    options = {"strict": False}
    done = convert(own_square_folder, tmp_path / "out", to=to, options=options, images_per_shard=20)
    assert (done.images, done.left_out) == (54, 3)
    problems = (tmp_path / "out" / "problems.txt").read_text()
    for line in ("'../x.png' leaves the folder", "sheep/01.png: no such", "sofa/02.png: leads out"):
        assert line in problems
    made = content(load_pairs(tmp_path / "out"))
    assert made == [line for n, line in enumerate(wanted) if n not in (25, 38)]


def test_a_cut_shard_is_converted_as_far_as_it_is_whole(
    square_folder: Path, tmp_path: Path
) -> None:
    convert(square_folder, tmp_path / "a", to="webdataset", images_per_shard=20)
    shard = tmp_path / "a" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    done = convert(tmp_path / "a", tmp_path / "b", to="parquet", images_per_shard=20)
    assert 36 < done.images < 56
    assert "the rest is not read" in (tmp_path / "b" / "problems.txt").read_text()
    with pytest.warns(MmpoisonWarning):
        left = content(load_pairs(tmp_path / "a"))
    assert content(load_pairs(tmp_path / "b")) == left


@pytest.mark.parametrize("name", ["captions.jsonl", "manifest.json", "problems.txt", "README.md"])
def test_an_image_cannot_take_the_place_of_the_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for image in (name, "1.jpg"):
        (tmp_path / "in" / image).write_bytes(b"precious")
    (tmp_path / "in" / "a.csv").write_text(f"image,caption\n{name},x\n1.jpg,x\n")
    done = convert(tmp_path / "in" / "a.csv", tmp_path / "out", to="pairs-folder")
    assert (done.images, done.left_out) == (1, 1)
    assert (tmp_path / "in" / name).read_bytes() == b"precious"


def test_an_image_of_an_unknown_kind_keeps_its_ending(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("1.jpg", "2.html"):
        (tmp_path / "in" / name).write_bytes(b"<html>")
    (tmp_path / "a.csv").write_text("image,caption\nin/1.jpg,x\nin/2.html,y\n")
    done = convert(tmp_path / "a.csv", tmp_path / "out", to="webdataset")
    # whether it is an image is for `verify` to say; what cannot even be named as one is left out
    assert (done.images, done.left_out) == (1, 1)
    assert list(load_pairs(tmp_path / "out").images.ids) == ["00000.tar/000000000.jpg"]


def test_rows_of_an_image_that_stand_apart_in_a_stream(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    table = pa.table({"image": ["1.jpg", "2.jpg", "3.jpg", "1.jpg"], "caption": list("abcd")})
    pq.write_table(table, tmp_path / "pairs.parquet")
    options: Any = {"to": "pairs-folder", "images_per_shard": 2}
    done = convert(tmp_path / "pairs.parquet", tmp_path / "out", **options)
    assert (done.images, done.left_out) == (3, 0)
    captions = [line["captions"] for line in load_pairs(tmp_path / "out").lines()]
    assert captions == [["a", "d"], ["b"], ["c"]]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A table that names a file and a member of an archive, which would get the same name as a file."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.jpg").write_bytes(b"a precious file")
    write_tar(tmp_path / "in" / "a.tar", dict.fromkeys(("1.jpg", "2.jpg"), b"a tar"))
    rows = ["image,caption", "a/1.jpg,file", "a.tar/1.jpg,member", "a.tar/2.jpg,other"]
    (tmp_path / "in" / "pairs.csv").write_text("\n".join(rows))
    return tmp_path / "in"


@pytest.mark.parametrize("workers", [1, 4])
def test_two_images_with_one_name_are_refused(mixed: Path, tmp_path: Path, workers: int) -> None:
    source = mixed / "pairs.csv"
    for _ in range(2):  # also when it goes on
        with pytest.raises(NameClash, match=r"called 'a/1.jpg'"):
            convert(
                source, tmp_path / "out", to="pairs-folder", images_per_shard=1, workers=workers
            )
    assert not (tmp_path / "out").exists()
    with pytest.raises(NameClash, match=r"another image of the source is called 'a/1.jpg'"):
        save_pairs(load_pairs(source), tmp_path / "saved")
    # a link to it was never written into
    assert (mixed / "a" / "1.jpg").read_bytes() == b"a precious file"


def test_two_images_with_one_name_are_refused_when_they_race(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other thread writes its image between this one's clearing of the place and its writing."""
    unlink = Path.unlink

    def raced(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        if self.name == "2.jpg":
            self.write_bytes(b"of the other thread")

    monkeypatch.setattr(Path, "unlink", raced)
    with pytest.raises(NameClash, match=r"a\.tar/2\.jpg: another image .* called 'a/2\.jpg' too"):
        convert(mixed / "pairs.csv", tmp_path / "out", to="pairs-folder")


def test_names_that_differ_in_case_alone_where_files_do_not(tmp_path: Path) -> None:
    """The disk of most Macs: `A.jpg` and `a.jpg` are one file there."""
    write_tar(tmp_path / "00000.tar", dict.fromkeys(("A.jpg", "A.txt", "a.jpg", "a.txt"), b"a tar"))
    convert(tmp_path / "00000.tar", tmp_path / "apart", to="pairs-folder")
    (tmp_path / ".out.convert" / "DATA").mkdir(parents=True)
    with pytest.raises(NameClash, match=r"called '00000/a\.jpg'"):
        convert(tmp_path / "00000.tar", tmp_path / "out", to="pairs-folder")
    # one image is called as the folder of another
    names = ("a.jpg", "a.txt", "a.jpg/1.jpg", "a.jpg/1.txt")
    write_tar(tmp_path / "1.tar", dict.fromkeys(names, b"a tar"))
    with pytest.raises(NameClash, match=r"a\.jpg"):
        convert(tmp_path / "1.tar", tmp_path / "other", to="pairs-folder")


def test_files_and_members_in_one_set(mixed: Path, tmp_path: Path) -> None:
    source = mixed / "pairs.csv"
    source.write_text(source.read_text().replace("a.tar/1.jpg,member\n", ""))
    pairs = load_pairs(source)
    convert(source, tmp_path / "out", to="pairs-folder")
    save_pairs(pairs, tmp_path / "saved")
    for out in (tmp_path / "out", tmp_path / "saved"):
        assert content(load_pairs(out)) == content(pairs)
        assert list(load_pairs(out).images.ids) == ["a/1.jpg", "a/2.jpg"]
        assert (out / "a" / "1.jpg").samefile(mixed / "a" / "1.jpg")


# -- interruption ----------------------------------------------------------------------------------


def break_off(
    monkeypatch: pytest.MonkeyPatch,
    shards: int,
    *arguments: Any,
    error: BaseException | type[BaseException] = KeyboardInterrupt,
    **options: Any,
) -> None:
    """Convert until the shard with this number begins, which raises an error."""
    write = module.write_shard  # type: ignore[attr-defined]

    def fail(to: Any, number: int, *rest: Any) -> Any:
        if number >= shards:
            raise error
        return write(to, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", fail)
        convert(*arguments, **options)


@pytest.mark.parametrize("to", FORMATS)
def test_it_goes_on_where_it_was(
    rich_folder: Path, tmp_path: Path, to: Any, monkeypatch: pytest.MonkeyPatch, snapshot: Snapshot
) -> None:
    options: Any = {"to": to, "images_per_shard": 10, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        break_off(monkeypatch, 3, rich_folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    # what a killed process was writing lies around
    (tmp_path / ".out.convert" / "data" / ".part-00003.parquet.mmpoison-abcdefgh").write_text(
        "half"
    )
    done = convert(rich_folder, tmp_path / "out", **options)
    assert (done.shards, done.kept_shards, done.images, done.pairs) == (6, 3, 56, 275)
    convert(rich_folder, tmp_path / "once", **options)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "once")


@pytest.mark.parametrize("finished", [0, 3])
def test_a_disk_that_fills_up(
    rich_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    options: Any = {"to": "webdataset", "images_per_shard": 10, "workers": 1}
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match="out: the disk is full: make room and repeat"):
        break_off(monkeypatch, finished, rich_folder, tmp_path / "out", error=full, **options)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.convert").exists() == (finished > 0)
    assert convert(rich_folder, tmp_path / "out", **options).kept_shards == finished


def test_what_is_refused_is_not_in_the_way_of_the_next_try(
    square_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("image,caption\nnowhere.jpg,a\n")
    for source, options in (
        (square_folder, {"options": {"strict": "perhaps"}}),
        (tmp_path / "x.csv", {"options": {"caption": "text"}}),
        (tmp_path / "x.csv", {}),
    ):
        refusal(convert, source, tmp_path / "out", to="webdataset", **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv"]
    # one that was killed before its first shard was done has nothing to go on from
    work = tmp_path / ".out.convert"
    (work / "data").mkdir(parents=True)
    (work / "data" / "old").write_text("x")
    (work / "job.json").write_text("{}")
    convert(square_folder, tmp_path / "out", to="webdataset")
    assert not (tmp_path / "out" / "old").exists()


def test_other_settings_do_not_go_on(
    rich_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        break_off(monkeypatch, 1, rich_folder, tmp_path / "out", to="parquet", images_per_shard=10)
    message = refusal(convert, rich_folder, tmp_path / "out", to="parquet", images_per_shard=20)
    assert "an unfinished conversion with other settings" in message
    assert str(tmp_path / ".out.convert") in message


@pytest.mark.parametrize("lines", [5, 15])
def test_a_source_that_changed_does_not_go_on(
    own_square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    options: Any = {"to": "parquet", "images_per_shard": 10, "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        break_off(monkeypatch, 3, own_square_folder, tmp_path / "out", **options)
    file = own_square_folder / "captions.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:lines]))
    message = refusal(convert, own_square_folder, tmp_path / "out", **options)
    assert "the source has changed" in message


def test_two_at_once(rich_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.convert").mkdir()
    with FileLock(tmp_path / ".out.convert" / "lock"):
        assert "is writing it" in refusal(convert, rich_folder, tmp_path / "out", to="parquet")
    convert(rich_folder, tmp_path / "out", to="parquet")


SLOW = """
import sys, time
from mmpoison.datasets import convert as module
write = module.write_shard
def slow(to, number, *rest):
    done = write(to, number, *rest)
    time.sleep(0.15)
    return done
module.write_shard = slow
module.convert_pairs(sys.argv[1], sys.argv[2], to=sys.argv[3], images_per_shard=5, workers=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_a_killed_process_goes_on(
    rich_folder: Path, tmp_path: Path, to: str, snapshot: Snapshot
) -> None:
    command = [sys.executable, "-c", SLOW, str(rich_folder), str(tmp_path / "out"), to]
    process = subprocess.Popen(command)
    done = tmp_path / ".out.convert" / "done"
    deadline = time.monotonic() + 60
    while len(list(done.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    finished = {path.name for path in done.glob("[0-9]*.json")}
    assert 3 <= len(finished) < 12
    before = {
        path.name: path.stat().st_ino
        for path in (tmp_path / ".out.convert" / "data").iterdir()
        if path.name[-13:-8] + ".json" in finished or path.name[:5] + ".json" in finished
    }
    result = convert(rich_folder, tmp_path / "out", to=to, images_per_shard=5, workers=1)  # type: ignore[arg-type]
    assert result.kept_shards >= 3
    # finished shards are the same files
    for name, inode in before.items():
        assert (tmp_path / "out" / name).stat().st_ino == inode
    assert to == "pairs-folder" or before
    convert(rich_folder, tmp_path / "once", to=to, images_per_shard=5)  # type: ignore[arg-type]
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "once")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "once"}


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "zip"}, "to 'zip': one of pairs-folder, parquet, webdataset"),
        ({"images": "move"}, "images 'move': one of link, copy, none"),
        ({"to": "webdataset", "images": "none"}, "shards of webdataset hold their images"),
        ({"images_per_shard": 0}, "1 to 10,000"),
        ({"images_per_shard": 10_001}, "1 to 10,000"),
        ({"format": "cvs"}, "did you mean 'csv'"),
        ({"options": {"colour": 1}}, "has no option 'colour'"),
        ({"source": "nowhere"}, "no such folder or file"),
        ({"source": "a.csv"}, "1.jpg: no such image"),
    ],
)
def test_bad_settings(square_folder: Path, tmp_path: Path, options: Any, message: str) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n1.jpg,x\n")
    options = {"to": "parquet", **options}
    source = tmp_path / options.pop("source") if "source" in options else square_folder
    assert message in refusal(convert, source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_output_must_be_new(square_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(square_folder, tmp_path / "out", to="parquet")
    assert "is not empty" in refusal(convert, square_folder, tmp_path / "out", to="parquet")


def test_progress(square_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    convert(square_folder, tmp_path / "a", to="parquet", images_per_shard=20, progress=progress)
    assert seen == [(20, 56), (40, 56), (56, 56)]
    seen.clear()
    # of a stream the length is not known, but the end is
    convert(tmp_path / "a", tmp_path / "b", to="webdataset", images_per_shard=20, progress=progress)
    assert [done for done, _ in seen] == [20, 40, 56, 56]
    assert [done < total for done, total in seen] == [True, True, True, False]


def test_tars_are_the_same_each_time(square_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(square_folder, tmp_path / name, to="webdataset")
    first, second = ((tmp_path / name / "00000.tar").read_bytes() for name in ("a", "b"))
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        names = archive.getnames()[:3]
    assert names == ["000000000.png", "000000000.txt", "000000000.json"]
    assert (tmp_path / "a" / "00000.tar").stat().st_mode & 0o444 == 0o444


def test_names_of_files_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    cows = tmp_path / "set" / "cow"
    cows.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(cows / "1.png")
    for name in (b"a\x1b[31mb\nc.txt", b"caf\xe9.png"):
        (Path(os.fsdecode(bytes(cows) + b"/" + name))).write_bytes(b"text")
    done = convert(tmp_path / "set", tmp_path / "out", to="pairs-folder")
    assert (done.images, done.left_out) == (1, 2)
    assert (tmp_path / "out" / "problems.txt").read_text().splitlines() == [
        rf"{cows}/a\x1b[31mb\nc.txt: not an image",
        rf"{cows}/caf\udce9.png: image path 'cow/caf\udce9.png' is not UTF-8, it is refused",
    ]
