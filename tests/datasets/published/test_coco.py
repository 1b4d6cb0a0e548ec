"""`coco`: the true layout in small, what breaks it, the real sample, and the whole set where it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import coco_name
from tests.datasets.published.conftest import write_coco as write_part

from mmpoison.datasets import PairDataset, load_dataset, load_pairs
from mmpoison.datasets.published.coco import load_coco
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.splits import split_per_class

needs_sample = pytest.mark.skipif(
    not (SHARED / "coco_mini" / "annotations").is_dir(),
    reason=f"coco_mini is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)

Write = Callable[..., Path]


@pytest.fixture
def write_coco(tmp_path: Path) -> Write:
    """A function that writes one part: of each image id the categories of its objects."""
    return partial(write_part, tmp_path / "coco")


def _lines(pairs: PairDataset) -> dict[str, dict[str, Any]]:
    return {line["image"]: line for line in pairs.lines()}


# -- the layout ------------------------------------------------------------------------------------


def test_the_layout_of_2017(write_coco: Write) -> None:
    write_coco({9: [17, 1, 17], 30: []}, "train", images=True)
    root = write_coco({42: [1]}, "val", images=True)
    pairs = load_pairs(root)
    assert pairs.problems == ()
    assert pairs.root == root
    lines = _lines(pairs)
    assert list(lines) == [
        "train2017/000000000009.jpg",
        "train2017/000000000030.jpg",
        "val2017/000000000042.jpg",
    ]
    first = lines["train2017/000000000009.jpg"]
    assert first["captions"] == ["image 9 text 0", "image 9 text 1"]
    assert first["categories"] == ["cat", "person"]
    assert first["label"] in ("cat", "person")
    assert first["split"] == "train"
    assert lines["train2017/000000000030.jpg"]["label"] is None
    assert lines["val2017/000000000042.jpg"]["split"] == "test"


def test_the_layout_of_2014(write_coco: Write) -> None:
    root = write_coco({9: [17]}, "train", 2014)
    pairs = load_dataset("coco", root)
    assert list(pairs.images.ids) == ["train2014/COCO_train2014_000000000009.jpg"]
    assert pairs.classes == ("cat",)


def test_the_annotations_folder_and_a_single_file(write_coco: Write) -> None:
    write_coco({9: [17]}, "train")
    root = write_coco({42: [1]}, "val")
    assert load_pairs(root / "annotations").fingerprint == load_pairs(root).fingerprint
    alone = load_pairs(root / "annotations" / "captions_val2017.json")
    assert alone.root == root
    assert list(alone.images.ids) == ["val2017/000000000042.jpg"]
    assert alone.counts()["splits"] == {"test": {"images": 1, "pairs": 2}}


def test_images_under_a_folder_of_images(write_coco: Write) -> None:
    root = write_coco({9: [17]}, images=True)
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images" / "train2017")
    assert list(load_coco(root).images.ids) == ["images/train2017/000000000009.jpg"]
    elsewhere = load_coco(root, images=root / "images")
    assert elsewhere.root == root / "images"
    assert list(elsewhere.images.ids) == ["train2017/000000000009.jpg"]


def test_a_file_of_ones_own_in_cocos_format(write_coco: Write) -> None:
    root = write_coco({9: [17]})
    file = root / "mine.json"
    (root / "annotations" / "captions_train2017.json").rename(file)
    pairs = load_pairs(file, format="coco", labels="none")
    assert list(pairs.images.ids) == ["images/000000000009.jpg"]
    assert pairs.counts()["splits"] == {"train": {"images": 1, "pairs": 2}}


def test_both_years_are_ambiguous(write_coco: Write) -> None:
    write_coco({9: [17]}, "train", 2014)
    root = write_coco({9: [17]}, "train", 2017)
    with pytest.raises(InputError, match="of 2014 and of 2017: say which with year=2014 or"):
        load_pairs(root)
    for year in (2014, "2017"):
        assert str(year) in load_pairs(root, year=year).images.ids[0]


def test_parts(write_coco: Write) -> None:
    write_coco({9: [17]}, "train")
    root = write_coco({42: [1]}, "val")
    assert load_coco(root, parts="train").counts()["splits"] == {"train": {"images": 1, "pairs": 2}}
    assert len(load_coco(root, parts="both").images) == 2
    (root / "annotations" / "captions_train2017.json").unlink()
    assert len(load_coco(root).images) == 1
    with pytest.raises(InputError, match=r"has no captions_\*.json of train and val"):
        load_coco(root, parts="both")
    with pytest.raises(InputError, match=r"has no captions_\*2014.json of train or val"):
        load_coco(root, year=2014)


# -- labels ----------------------------------------------------------------------------------------


def test_each_object_is_one_ticket(write_coco: Write) -> None:
    root = write_coco({number: [1, 17, 17, 17] for number in range(1, 2001)})
    pairs = load_coco(root)
    assert pairs.problems == ()
    counts = Counter(line["label"] for line in pairs.lines())
    # 1500 +- 6 standard deviations of 19.4
    assert abs(counts["cat"] - 1500) < 6 * 19.4
    assert counts["cat"] + counts["person"] == 2000


def test_the_label_hangs_on_the_image_and_the_seed_alone(write_coco: Write) -> None:
    objects = {number: [1, 17, 80, 89] for number in range(1, 101)}
    root = write_coco(objects)
    labels = {name: line["label"] for name, line in _lines(load_coco(root)).items()}

    def reverse(captions: dict[str, Any], instances: dict[str, Any]) -> None:
        for file in (captions, instances):
            file["annotations"].reverse()
            file["images"].reverse()

    write_coco(objects, change=reverse)
    assert {n: line["label"] for n, line in _lines(load_coco(root)).items()} == labels
    other = {n: line["label"] for n, line in _lines(load_coco(root, label_seed=1)).items()}
    assert other != labels
    assert load_coco(root, 5).fingerprint == load_coco(root, 6).fingerprint


def test_the_largest_object_and_no_labels(write_coco: Write) -> None:
    # areas grow with the number of the object
    root = write_coco({9: [17, 17, 1], 10: [1, 89]})
    largest = load_coco(root, labels="largest")
    assert [largest.images.label(n) for n in (0, 1)] == ["person", "hair drier"]
    (root / "annotations" / "instances_train2017.json").unlink()
    bare = load_coco(root, labels="none")
    assert bare.classes == ()
    assert bare.images.categories is None
    with pytest.raises(InputError, match=r"instances_train2017\.json: no such file, labels=random"):
        load_coco(root)


# -- the paper's split -----------------------------------------------------------------------------


@pytest.fixture
def two_parts(write_coco: Write) -> Path:
    """Cats and people over both parts, some images of two classes that the paper drops."""
    write_coco({n: [1] for n in range(1, 9)} | {20: [80]}, "train")
    return write_coco({n: [17] for n in range(9, 15)} | {21: [89], 22: []}, "val")


def test_the_papers_split(two_parts: Path) -> None:
    pairs = load_coco(two_parts, splits="paper", test_per_class=3)
    assert pairs.classes == ("cat", "person")
    for label, train in (("person", 5), ("cat", 3)):
        assert len(pairs.images.indices(split="test", label=label)) == 3
        assert len(pairs.images.indices(split="train", label=label)) == train
    # the image without objects is training data; toaster and hair drier are gone
    assert pairs.counts()["splits"] == {
        "train": {"images": 9, "pairs": 18},
        "test": {"images": 6, "pairs": 12},
    }
    other = load_coco(two_parts, splits="paper", test_per_class=3, split_seed=1)
    assert other.fingerprint != pairs.fingerprint


def test_the_papers_split_is_that_of_the_general_tools(two_parts: Path) -> None:
    paper = load_coco(two_parts, splits="paper", test_per_class=2, split_seed=4)
    general = split_per_class(load_coco(two_parts, drop_classes="toaster, hair drier"), 2, seed=4)
    assert paper.fingerprint == general.fingerprint


def test_the_split_does_not_hang_on_the_images_in_hand(two_parts: Path, write_coco: Write) -> None:
    whole = _lines(load_coco(two_parts, splits="paper", test_per_class=3))
    for number in (1, 2, 3, 4):
        path = two_parts / "train2017" / coco_name(2017, "train", number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    some = load_coco(two_parts, splits="paper", test_per_class=3)
    assert len(some.images) == 4
    assert all(whole[name]["split"] == line["split"] for name, line in _lines(some).items())


def test_classes_to_drop(two_parts: Path) -> None:
    assert "toaster" in load_coco(two_parts).classes
    assert load_coco(two_parts, drop_classes="cat, toaster").classes == ("hair drier", "person")
    assert load_coco(
        two_parts, splits="paper", drop_classes=["toaster", "hair drier", "cat"], test_per_class=1
    ).classes == ("person",)
    with pytest.raises(InputError, match="drop_classes: 'dog' is none of the categories: cat, h"):
        load_coco(two_parts, drop_classes=["dog"])
    for file in (two_parts / "annotations").glob("instances*.json"):
        file.write_text(file.read_text().replace('"cat"', '"c\\nat"'))
    with pytest.raises(InputError, match=r"categories: c\\nat, h"):
        load_coco(two_parts, drop_classes=["dog"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_per_class": 7}, "class 'cat' has 6 images, which leaves none to train"),
        ({"test_per_class": 6}, "class 'cat' has 6 images, which leaves none to train"),
        ({"labels": "none"}, "splits=paper: takes images of each class, so it needs labels"),
    ],
)
def test_bad_options(two_parts: Path, options: dict[str, Any], message: str) -> None:
    given = {"splits": "paper", "test_per_class": 3, **options}
    assert message in refusal(load_coco, two_parts, **given)


# -- broken files ----------------------------------------------------------------------------------


def _set(kind: int, key: str, index: int, value: Any) -> Callable[..., None]:
    def change(*files: dict[str, Any]) -> None:
        files[kind][key][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem", "images", "pairs"),
    [
        (
            _set(0, "annotations", 1, {"image_id": 10, "caption": None}),
            "captions_train2017.json annotations[1]: not as it should be (Expected `str`, got",
            2,
            3,
        ),
        (
            _set(0, "annotations", 1, {"image_id": 10, "caption": " \n"}),
            "captions_train2017.json images[1]: a caption of 'train2017/000000000010.jpg' is empty",
            2,
            3,
        ),
        (
            _set(0, "annotations", 1, {"image_id": 77, "caption": "lost"}),
            "1 caption is of image ids that the file does not list, the first 77",
            2,
            3,
        ),
        (
            _set(0, "images", 1, {"id": 9, "file_name": "000000000010.jpg"}),
            "images[1]: image id 9 occurs twice",
            1,
            2,
        ),
        (_set(0, "images", 1, {"id": 10}), "images[1]: not as it should be (Object missing", 1, 2),
        (
            _set(1, "annotations", 0, {"id": 1, "image_id": 9, "category_id": 500}),
            "instances_train2017.json: 1 object is of category ids that the file does not list",
            2,
            4,
        ),
    ],
)
def test_a_broken_entry_is_left_out_and_named(
    write_coco: Write, change: Callable[..., None], problem: str, images: int, pairs: int
) -> None:
    root = write_coco({9: [17], 10: [1]}, change=change)
    found = load_coco(root)
    assert any(problem in line for line in found.problems), found.problems
    assert all(len(line.splitlines()) == 1 for line in found.problems)
    assert (len(found.images), len(found)) == (images, pairs)
    with pytest.warns(MmpoisonWarning, match="left out"):
        load_pairs(root)


def test_a_huge_area_is_left_out(write_coco: Write) -> None:
    root = write_coco({9: [17], 10: [1]})
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace("702.1", "1e999", 1))
    pairs = load_coco(root, labels="largest")
    assert "annotations[0]: not as it should be (Number out of range" in pairs.problems[0]
    assert pairs.images.label(0) is None
    assert pairs.images.label(1) == "person"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, JSON is needed"),
        (b"[1, 2]", "not as it should be (Expected `object`, got `array`)"),
        (b'{"images": []}', "not as it should be (Object missing required field `annotations`)"),
        (b'{"images": [], "annotations": 5}', "Expected `array`, got `int`"),
        (b'{"images": [], "annotations": []', "not valid JSON (Input data was truncated)"),
        (b'{"images": [NaN], "annotations": []}', "not valid JSON (JSON is malformed"),
        (b'{"images": [], "annotations": []}', "holds no image"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b'{"images": ' + b"[" * 1_000_000, "not valid JSON (brackets without end)"),
        (b"\x89PNG\r\n\x1a\n", "not valid JSON"),
    ],
)
def test_what_is_not_cocos_json_is_refused(write_coco: Write, content: bytes, message: str) -> None:
    root = write_coco({9: [17]})
    (root / "annotations" / "captions_train2017.json").write_bytes(content)
    said = refusal(load_pairs, root)
    assert message in said
    assert "captions_train2017.json" in said


def test_a_byte_order_mark_is_passed_over(write_coco: Write) -> None:
    root = write_coco({9: [17]})
    file = root / "annotations" / "captions_train2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load_pairs(root)) == 2


def test_missing_images(write_coco: Write) -> None:
    write_coco({9: [17], 10: [1], 11: [1]}, "train", images=True)
    root = write_coco({42: [1], 43: [1]}, "val")
    (root / "train2017" / "000000000010.jpg").unlink()
    pairs = load_coco(root)
    # one line for all of them, and val counts although its folder is not there at all
    assert len(pairs.problems) == 1
    assert "3 of 5 images are not under" in pairs.problems[0]
    assert "train2017/000000000010.jpg, val2017/000000000042.jpg" in pairs.problems[0]
    assert len(pairs.images) == 2
    kept = load_coco(root, missing="keep")
    assert len(kept.images) == 5
    assert kept.problems == ()


# -- real data -------------------------------------------------------------------------------------


@needs_sample
def test_the_real_sample() -> None:
    pairs = load_pairs(SHARED / "coco_mini")
    assert pairs.problems == ()
    assert pairs.counts()["splits"] == {
        "train": {"images": 80, "pairs": 400},
        "test": {"images": 79, "pairs": 395},
    }
    assert len(pairs.images) == 159
    assert len(pairs) == len(set(pairs.captions)) == 795
    categories = pairs.images.categories
    assert categories is not None
    per_category = Counter(name for names in categories for name in names)
    # as its README counts them
    assert len(per_category) == 80
    expected = {"person": 75, "dining table": 26, "hot dog": 1, "toaster": 3, "hair drier": 2}
    assert {name: per_category[name] for name in expected} == expected
    for index, names in enumerate(categories):
        assert list(names) == sorted(set(names))
        assert pairs.images.label(index) in names
    assert all((pairs.root / name).is_file() for name in pairs.images.ids)


@needs_sample
def test_the_objects_of_the_real_sample() -> None:
    """The independent way: 1,363 objects, read by the plain JSON module."""
    objects = []
    for part in ("train", "val"):
        file = SHARED / "coco_mini" / "annotations" / f"instances_{part}2017.json"
        content = json.loads(file.read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        objects += [
            (f"{part}2017/{thing['image_id']:012d}.jpg", names[thing["category_id"]], thing["area"])
            for thing in content["annotations"]
        ]
    assert len(objects) == 1363
    pairs = load_coco(SHARED / "coco_mini", labels="largest")
    assert pairs.images.categories is not None
    for index, image_id in enumerate(pairs.images.ids):
        own = [(area, name) for image, name, area in objects if image == image_id]
        assert pairs.images.label(index) == max(own)[1]
        assert pairs.images.categories[index] == tuple(sorted({name for _, name in own}))
