"""Folders of images by class: splits, captions from templates, files that do not belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.datasets.formats.folders import TEMPLATES
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.labels import caption_of

Make = Callable[..., Path]
JPEG = b"\xff\xd8\xff\xe0rest"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that writes small files."""

    def write(*names: str, data: bytes = JPEG) -> Path:
        for name in names:
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).write_bytes(data)
        return tmp_path / "root"

    return write


def images(pairs: PairDataset) -> list[tuple[str, str, str]]:
    return [(line["image"], line["label"], line["split"]) for line in pairs.lines()]


def test_classes(make: Make) -> None:
    pairs = load_pairs(make("sheep/2.jpg", "sheep/1.JPG", "oil_tanker/deep/3.png"))
    assert images(pairs) == [
        ("oil_tanker/deep/3.png", "oil_tanker", "train"),
        ("sheep/1.JPG", "sheep", "train"),
        ("sheep/2.jpg", "sheep", "train"),
    ]
    assert list(pairs.captions[:5]) == [
        "a photo of an oil tanker.",
        "a bad photo of an oil tanker.",
        "a photo of the oil tanker.",
        "a close-up photo of an oil tanker.",
        "a cropped photo of an oil tanker.",
    ]
    assert len(pairs) == 3 * len(TEMPLATES)


def test_splits(make: Make) -> None:
    pairs = load_pairs(make("train/cow/1.jpg", "valid/cow/1.jpg", "test/cow/1.jpg"))
    assert images(pairs) == [
        ("test/cow/1.jpg", "cow", "test"),
        ("train/cow/1.jpg", "cow", "train"),
        ("valid/cow/1.jpg", "cow", "val"),
    ]


def test_a_folder_beside_the_splits_is_named(make: Make) -> None:
    with pytest.warns(MmpoisonWarning, match="extra: is not a split, unlike the other"):
        assert len(load_pairs(make("train/cow/1.jpg", "extra/cow/1.jpg")).images) == 1


def test_templates(make: Make) -> None:
    root = make("cow/1.jpg")
    assert list(load_pairs(root, templates=["A {}", "{}s"]).captions) == ["A cow", "cows"]
    assert list(load_pairs(root, templates="one {}; two {}").captions) == ["one cow", "two cow"]


@pytest.mark.parametrize("templates", ["a cow", "{} and {}", "{0}", "{name} {}", "", [], [3]])
def test_bad_templates(make: Make, templates: Any) -> None:
    with pytest.raises(InputError, match="template"):
        load_pairs(make("cow/1.jpg"), templates=templates)


@pytest.mark.parametrize(
    ("label", "caption"),
    [
        ("sheep", "a sheep"),
        ("aeroplane", "an aeroplane"),
        ("unicycle", "a unicycle"),
        ("hourglass", "an hourglass"),
        ("tennis-court", "a tennis court"),
        ("_", "a _"),
    ],
)
def test_articles(label: str, caption: str) -> None:
    assert caption_of("a {}", label) == caption
    assert caption_of("the {}", label) == "the " + caption.split(" ", 1)[1]
    assert caption_of("area {}", label) == "area " + caption.split(" ", 1)[1]


def test_files_that_do_not_belong(make: Make) -> None:
    make("cow/.hidden.jpg", "cow/Thumbs.db", "README.md", "cow/.git/x.jpg", ".cache/x/1.jpg")
    make("cow/notes.txt", "cow/broken", data=b"text")
    root = make("cow/1.jpg", "cow/2.dat", "loose.jpg")
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(root)
    # an image with a wrong name is an image, by its content
    assert [image for image, _, _ in images(pairs)] == ["cow/1.jpg", "cow/2.dat"]
    assert sorted(pairs.problems) == [
        f"{root}/cow/broken: not an image",
        f"{root}/cow/notes.txt: not an image",
        f"{root}/loose.jpg: is in no class folder",
    ]


def test_a_link_to_a_folder_is_not_followed_within_a_class(make: Make, tmp_path: Path) -> None:
    root = make("cow/1.jpg")
    (root / "cow" / "again").symlink_to(root, target_is_directory=True)
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(root)
    assert len(pairs.images) == 1
    assert list(pairs.problems) == [f"{root}/cow/again: a link to a folder, which is not followed"]


@pytest.mark.parametrize(
    ("split", "link"), [("", "out"), ("train/", "train/out"), ("train/", "test")]
)
def test_a_link_out_is_not_entered(make: Make, tmp_path: Path, split: str, link: str) -> None:
    root = make(f"{split}cow/1.jpg")
    photo = (root / f"{split}cow/1.jpg").read_bytes()
    (tmp_path / "private" / "pig").mkdir(parents=True)
    (tmp_path / "private" / "letter.txt").write_text("x")
    for name in ("1.jpg", "pig/2.jpg"):
        (tmp_path / "private" / name).write_bytes(photo)
    (root / link).symlink_to(tmp_path / "private", target_is_directory=True)
    with pytest.warns(MmpoisonWarning):
        pairs = load_pairs(root)
    assert [label for _, label, _ in images(pairs)] == ["cow"]
    # nothing of what lies there is named
    assert list(pairs.problems) == [f"{root / link}: points outside {root}, so it is refused"]


def test_no_such_folder(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no image"):
        load_pairs(tmp_path / "empty", format="image-folder")
    with pytest.raises(InputError, match="no such folder"):
        load_pairs(make("cow/1.jpg") / "cow" / "1.jpg", format="image-folder")


def test_any_other_format_comes_first(make: Make) -> None:
    root = make("cow/1.jpg")
    (root / "captions.csv").write_text("image,caption\ncow/1.jpg,mine\n")
    assert list(load_pairs(root).captions) == ["mine"]
