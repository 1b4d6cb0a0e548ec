"""webdataset shards: img2dataset's layout, cut and hostile tar files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import captions_by_image

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images.containers import walk_tar
from mmpoison.images.sources import open_image

Member = tuple[str, bytes | str]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a shard of (name, content), in this order; a TarInfo is taken as it is."""

    def make(*members: Member | tarfile.TarInfo, name: str = "00000.tar") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as archive:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    archive.addfile(member)
                    continue
                data = member[1].encode() if isinstance(member[1], str) else member[1]
                info = tarfile.TarInfo(member[0])
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file

    return make


def sample(key: str, caption: str = "a sheep", **facts: Any) -> list[Member]:
    """The three members that img2dataset writes for an image."""
    about = {"caption": caption, "key": key, "status": "success", "url": "http://a/b.jpg", **facts}
    return [
        (f"{key}.jpg", f"image {key}"),
        (f"{key}.txt", caption),
        (f"{key}.json", json.dumps(about)),
    ]


def with_problems(path: Path) -> PairDataset:
    with pytest.warns(MmpoisonWarning):
        return load_pairs(path)


# -- what is read ----------------------------------------------------------------------------------


def test_img2datasets_layout(write: Write, tmp_path: Path) -> None:
    write(*sample("000000000", "one"), *sample("000000007", "two"))
    write(*sample("000010000", "three"), name="00001.tar")
    for name in ("00000.parquet", "00000_stats.json", "00001.parquet"):
        (tmp_path / name).write_bytes(b"PAR1")
    pairs = load_pairs(tmp_path)
    assert captions_by_image(pairs) == {
        "00000.tar/000000000.jpg": ["one"],
        "00000.tar/000000007.jpg": ["two"],
        "00001.tar/000010000.jpg": ["three"],
    }
    for image_id in pairs.images.ids:
        key = Path(image_id).stem
        assert open_image(tmp_path, image_id).read() == f"image {key}".encode()


def test_members_of_a_key_may_stand_apart(write: Write) -> None:
    # `tar cf` takes the files of a folder in any order
    file = write(("b.txt", "of b"), ("a.jpg", b"a"), ("b.jpg", b"b"), ("a.txt", "of a"))
    assert captions_by_image(load_pairs(file)) == {
        "00000.tar/b.jpg": ["of b"],
        "00000.tar/a.jpg": ["of a"],
    }


def test_names_with_folders_and_dots(write: Write) -> None:
    file = write(
        ("./x/1.jpg", b"a"), ("./x/1.txt", "x"), ("y/1.PNG", b"b"), ("y/1.json", '{"caption": "y"}')
    )
    pairs = load_pairs(file)
    assert captions_by_image(pairs) == {"00000.tar/x/1.jpg": ["x"], "00000.tar/y/1.PNG": ["y"]}
    assert open_image(pairs.root, "00000.tar/x/1.jpg").read() == b"a"


def test_other_members_are_ignored(write: Write) -> None:
    file = write(*sample("0"), ("0.npy", b"\x93NUMPY"), ("0.mask.png", b"mask"))
    pairs = load_pairs(file)
    assert len(pairs.images) == 1
    assert pairs.root == file.parent


def test_labels_splits_and_several_captions(write: Write, tmp_path: Path) -> None:
    write(
        ("0.jpg", b""), ("0.cls", "sheep\n"), ("0.txt", "x\n"),
        *sample("1", label="cow", split="validation", categories=["cow", "hill"]),
        *sample("2", label=3, captions=["a", "b"]),
        name="val/00000.tar",
    )  # fmt: skip
    write(*sample("1"), name="00000.tar")
    lines = list(load_pairs(tmp_path).lines())
    assert [(li["image"], li["label"], li["split"], li["captions"]) for li in lines] == [
        ("00000.tar/1.jpg", None, "train", ["a sheep"]),
        ("val/00000.tar/0.jpg", "sheep", "val", ["x"]),
        ("val/00000.tar/1.jpg", "cow", "val", ["a sheep"]),
        ("val/00000.tar/2.jpg", "3", "val", ["a", "b"]),
    ]
    assert lines[2]["categories"] == ["cow", "hill"]


# -- what is broken --------------------------------------------------------------------------------


def test_a_broken_header_is_not_the_end(write: Write, tmp_path: Path) -> None:
    file = write(*sample("0"), *sample("1"))
    with tarfile.open(file) as archive:
        start = archive.getmember("1.jpg").offset
    raw = bytearray(file.read_bytes())
    raw[start : start + 512] = b"\x55" * 512
    file.write_bytes(raw)
    pairs = with_problems(tmp_path)
    assert len(pairs) == 1
    assert "broken after 3 members" in pairs.problems[0]


def test_a_file_that_is_no_tar(write: Write, tmp_path: Path) -> None:
    write(*sample("0"))
    (tmp_path / "00001.tar").write_bytes(b"not a tar file" * 100)
    (tmp_path / "00002.tar").write_bytes(b"")
    pairs = with_problems(tmp_path)
    assert len(pairs) == 1
    assert all("not an uncompressed tar file" in line for line in pairs.problems)
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(InputError, match="contains no image"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("name", ["../0.jpg", "/etc/0.jpg", "a/../../0.jpg", "a\\0.jpg"])
def test_members_that_climb_are_refused(write: Write, name: str) -> None:
    file = write((name, b"x"), *sample("1"))
    pairs = with_problems(file)
    assert list(captions_by_image(pairs)) == ["00000.tar/1.jpg"]
    assert "leaves the shard" in pairs.problems[0]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_only_regular_members_are_read(write: Write, kind: bytes) -> None:
    link = tarfile.TarInfo("0.jpg")
    link.type = kind
    link.linkname = "/etc/passwd"
    file = write(link, ("0.txt", "x"), *sample("1"))
    pairs = with_problems(file)
    assert list(captions_by_image(pairs)) == ["00000.tar/1.jpg"]
    assert any("not a regular file" in line for line in pairs.problems)
    with pytest.raises(InputError, match="no such image"):
        open_image(file.parent, "00000.tar/0.jpg")


def test_keys_that_are_not_whole(write: Write) -> None:
    file = write(
        ("0.jpg", b"x"),
        ("1.txt", "y"),
        ("2.jpg", b"x"), ("2.json", "{broken"),
        ("3.jpg", b"x"), ("3.json", "[]"), ("3.txt", "has one"),
        ("4.jpg", b"x"), ("4.txt", b"caf\xe9"),
        *sample("5"), ("5.jpg", b"again"), ("5.txt", "again"), ("5.png", b"other"),
        ("6.jpg", b"x"), ("6.txt", "z" * 2**20 + "z"),
    )  # fmt: skip
    pairs = with_problems(file)
    assert captions_by_image(pairs) == {
        "00000.tar/3.jpg": ["has one"],
        "00000.tar/4.jpg": [],
        "00000.tar/5.jpg": ["a sheep"],
    }
    said = "\n".join(pairs.problems)
    for problem in (
        "key '0': has no caption",
        "key '1': has no image",
        "key '2': has no caption; 00000.tar key '2': .json: not valid JSON",
        "key '3': .json is not an object",
        "a caption of '00000.tar/4.jpg' is not UTF-8 text",
        "'5.jpg': key '5' has an image already",
        "'5.png': key '5' has an image already",
        "'5.txt' occurs twice",
        "'6.txt' has 1,048,577 bytes",
        "key '6': has no caption",
    ):
        assert problem in said, problem
    # of two members with one name the first is opened too
    assert open_image(file.parent, "00000.tar/5.jpg").read() == b"image 5"


def test_every_cut_is_survived(write: Write, tmp_path: Path) -> None:
    """Wherever a shard ends, its members are a beginning of the whole one's, and the cut is said."""
    raw = write(*sample("0"), *sample("1")).read_bytes()
    whole = [name for name, _ in walk_tar(tmp_path / "00000.tar", pytest.fail)]
    file = tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "00000.tar") as archive:
        end = archive.getmembers()[-1].offset + 1024
    # also between two members, where only the end mark is missing
    for length in range(0, end, 64):
        file.write_bytes(raw[:length])
        problems: list[str] = []
        names = [name for name, _ in walk_tar(file, problems.append)]
        assert names == whole[: len(names)]
        assert problems


def test_a_size_that_leads_back_is_no_endless_loop(write: Write, tmp_path: Path) -> None:
    file = write(*sample("0"), *sample("1"))
    with tarfile.open(file) as archive:
        start = archive.getmember("1.jpg").offset
    raw = bytearray(file.read_bytes())
    # a negative number in base 256, and the checksum that goes with it
    raw[start + 124 : start + 136] = b"\xff" * 10 + (-1024).to_bytes(2, "big", signed=True)
    raw[start + 148 : start + 156] = b" " * 8
    raw[start + 148 : start + 156] = f"{sum(raw[start : start + 512]):06o}\0 ".encode()
    file.write_bytes(raw)
    pairs = with_problems(tmp_path)
    assert list(captions_by_image(pairs)) == ["00000.tar/0.jpg"]
    assert "the rest is not read" in pairs.problems[0]


def test_an_archive_of_images_beside_a_table_is_no_shard(write: Write, tmp_path: Path) -> None:
    write(*((f"photos/{n}.jpg", b"x") for n in range(30)), name="photos.tar")
    (tmp_path / "captions.csv").write_text("image,caption\nphotos.tar/photos/3.jpg,three\n")
    pairs = load_pairs(tmp_path)
    # and the table may name images in the archive
    assert captions_by_image(pairs) == {"photos.tar/photos/3.jpg": ["three"]}
    assert open_image(tmp_path, "photos.tar/photos/3.jpg").read() == b"x"
    (tmp_path / "captions.csv").unlink()
    (tmp_path / "photos.tar").unlink()
    write(*sample("0"), name="train-0.tar")
    assert len(load_pairs(tmp_path)) == 1
