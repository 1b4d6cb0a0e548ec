"""`coco` and what is made of it: years and parts, labels, the paper's split, and the real sample."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import coco_name, copied
from tests.datasets.published.conftest import write_coco as write_part

from mmpoison.datasets import PairDataset, load_dataset, load_pairs
from mmpoison.datasets.published.coco import load_coco
from mmpoison.pairs.labels import labels_of
from mmpoison.pairs.splits import split_per_class

Write = Callable[..., Path]


@pytest.fixture
def write_coco(tmp_path: Path) -> Write:
    """A function that writes one part of 2017: of each image id the categories of its objects."""
    return partial(write_part, tmp_path / "coco")


def ids(pairs: PairDataset, split: str | None = None) -> list[str]:
    return [str(pairs.images.ids[n]) for n in pairs.images.indices(split=split)]


def test_the_annotations_folder_and_a_single_file(write_coco: Write) -> None:
    write_coco({9: [17, 1, 17], 30: []}, "train")
    root = write_coco({42: [1]}, "val")
    whole = load_pairs(root)
    assert whole.images.categories is not None
    assert list(whole.images.categories) == [("cat", "person"), (), ("person",)]
    assert load_pairs(root / "annotations").fingerprint == whole.fingerprint
    alone = load_pairs(root / "annotations" / "captions_val2017.json")
    assert alone.root == root
    assert ids(alone, "test") == ["val2017/000000000042.jpg"]
    mine = (root / "annotations" / "captions_val2017.json").rename(root / "mine.json")
    pairs = load_pairs(mine, format="coco", labels="none")
    assert ids(pairs, "train") == ["images/000000000042.jpg"]


def test_folders_of_images(write_coco: Write) -> None:
    write_coco({42: [1], 43: [1]}, "val")
    root = write_coco({9: [17]}, images=True)
    # the images of val count as missing although their folder is not there at all
    (said,) = load_coco(root).problems
    assert "2 of 3 images are not under" in said
    (root / "images").mkdir()
    photos = (root / "train2017").rename(root / "images" / "train2017")
    assert ids(load_coco(root)) == ["images/train2017/000000000009.jpg"]
    assert ids(load_coco(root, images=photos)) == ["000000000009.jpg"]


def test_years_and_parts(write_coco: Write) -> None:
    write_coco({9: [17]}, "train", 2014)
    write_coco({9: [17]}, "train")
    root = write_coco({42: [1]}, "val")
    assert "contains COCO 2014 and 2017: say which with year=2014 or" in refusal(load_pairs, root)
    for year in (2014, "2017"):
        assert str(year) in ids(load_pairs(root, year=year))[0]
    both = partial(load_coco, root, year=2017)
    assert ids(both(parts="train")) == ["train2017/000000000009.jpg"]
    assert len(both(parts="both").images) == 2
    (root / "annotations" / "captions_train2017.json").unlink()
    assert len(both().images) == 1
    assert "has no captions_*2017.json of train and val" in refusal(both, parts="both")
    assert "has no captions_*2017.json of train: coco" in refusal(both, parts="train")
    for file in (root / "annotations").glob("*2014.json"):
        file.unlink()
    assert "has no captions_*2014.json of train or val" in refusal(load_coco, root, year=2014)
    # the paper's sets do not take the other year silently
    assert "captions_*2014.json" in refusal(load_dataset, "coco-paper", root)


# -- labels ----------------------------------------------------------------------------------------


def test_each_object_is_one_ticket(write_coco: Write) -> None:
    root = write_coco({number: [1, 17, 17, 17] for number in range(1, 2001)})
    counts = Counter(labels_of(load_coco(root)))
    # 1500 +- 6 standard deviations of 19.4
    assert abs(counts["cat"] - 1500) < 6 * 19.4
    assert counts["cat"] + counts["person"] == 2000


def test_the_label_hangs_on_the_image_and_not_on_the_order(write_coco: Write) -> None:
    objects = {number: [1, 17, 80, 89] for number in range(1, 101)}
    pairs = load_coco(write_coco(objects))
    labels = dict(zip(pairs.images.ids, labels_of(pairs), strict=True))

    def reverse(captions: dict[str, Any], instances: dict[str, Any]) -> None:
        for file in (captions, instances):
            file["annotations"].reverse()
            file["images"].reverse()

    again = load_coco(write_coco(objects, change=reverse))
    assert dict(zip(again.images.ids, labels_of(again), strict=True)) == labels


def test_the_largest_object_and_no_labels(write_coco: Write) -> None:
    # areas grow with the number of the object
    root = write_coco({9: [17, 17, 1], 10: [1, 89]})
    assert labels_of(load_coco(root, labels="largest")) == ["person", "hair drier"]
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace("704.1", "1e999", 1).replace('": 89', '": 500', 1))
    broken = load_coco(root, labels="largest")
    assert labels_of(broken) == ["cat", "person"]
    assert "annotations[2]: not in the expected form (Number out of range" in broken.problems[0]
    said = "json: 1 object is of category ids that the file does not list, the first 500"
    assert said in broken.problems[1]
    file.unlink()
    bare = load_coco(root, labels="none")
    assert bare.classes == ()
    assert bare.images.categories is None
    assert "instances_train2017.json: no such file: labels=random" in refusal(load_coco, root)


# -- the paper's split -----------------------------------------------------------------------------


def test_the_papers_split_is_that_of_the_general_tools(published: Path) -> None:
    load = partial(load_coco, published / "coco")
    paper = load(splits="paper", test_per_class=2, split_seed=4)
    general = split_per_class(load(drop_classes="toaster, hair drier"), 2, seed=4)
    assert paper.fingerprint == general.fingerprint


def test_the_split_does_not_hang_on_the_images_in_hand(published: Path, tmp_path: Path) -> None:
    root = copied(published, "coco", tmp_path)
    whole = {line["image"]: line for line in load_dataset("coco-paper", root).lines()}
    (root / "train2014").mkdir()
    for number in range(1, 30, 3):
        (root / "train2014" / coco_name(2014, "train", number)).touch()
    some = load_coco(root, splits="paper")
    assert len(some.images) == 10
    assert all(whole[line["image"]] == line for line in some.lines())


def test_classes_to_drop(published: Path, tmp_path: Path) -> None:
    load = partial(load_coco, copied(published, "coco", tmp_path))
    assert load(drop_classes="boat, toaster").classes == ("dog", "hair drier", "zebra")
    paper = load(splits="paper", drop_classes=["toaster", "hair drier", "dog"])
    assert paper.classes == ("boat", "zebra")
    for file in (tmp_path / "copy" / "annotations").glob("instances*.json"):
        file.write_text(file.read_text().replace('"boat"', '"b\\noat"'))
    said = refusal(load, drop_classes=["cat"])
    assert "drop_classes: 'cat' is not one of the categories: b\\noat, dog" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_per_class": 53}, "class 'zebra' has 52 images, which leaves none for training"),
        ({"test_per_class": 52}, "class 'zebra' has 52 images, which leaves none for training"),
        ({"labels": "none"}, "splits=paper: takes images of each class, so it needs labels"),
    ],
)
def test_bad_options(published: Path, options: dict[str, Any], message: str) -> None:
    assert message in refusal(load_coco, published / "coco", splits="paper", **options)


# -- the paper's sets ------------------------------------------------------------------------------


def test_all_have_the_same_test_data_and_the_smaller_are_in_the_larger(published: Path) -> None:
    names = ("coco-paper", "coco-m", "coco-s")
    sets = [load_dataset(name, published / "coco") for name in names]
    tests = [[line for line in pairs.lines() if line["split"] == "test"] for pairs in sets]
    assert tests[0] == tests[1] == tests[2]
    whole, half, quarter = (set(ids(pairs, "train")) for pairs in sets)
    assert quarter < half < whole


def test_the_folder_that_holds_coco_will_do(published: Path) -> None:
    for name in ("coco-paper", "coco-paper-b"):
        own, around = (load_dataset(name, published / folder) for folder in ("coco", "."))
        assert own.fingerprint == around.fingerprint


def test_a_repair_of_coco_sees_no_image_of_coco(published: Path, tmp_path: Path) -> None:
    pairs = load_dataset("coco-paper-vg", published)
    kept = load_dataset("coco-paper-vg", published, options={"shared": "keep"})
    shared = {"visual-genome/VG_100K/1.jpg"}
    assert set(ids(kept)) - set(ids(pairs)) == shared
    assert set(ids(kept, "val")) - set(ids(pairs, "val")) == shared
    (tmp_path / "coco").symlink_to(published / "coco")
    file = copied(published, "visual-genome", tmp_path).rename(tmp_path / "visual-genome")
    file /= "image_data.json"
    file.write_text(json.dumps([{"image_id": n, "coco_id": 1} for n in range(1, 26)]))
    assert "every image of Vis" in refusal(load_dataset, "coco-paper-vg", tmp_path)
    file.unlink()
    missing = refusal(load_dataset, "coco-paper-vg", tmp_path)
    assert "image_data.json: missing; it says which" in missing


# -- real data -------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (SHARED / "coco_mini" / "annotations").is_dir(),
    reason=f"coco_mini is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)
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
    pairs = load_pairs(SHARED / "coco_mini", labels="largest")
    assert pairs.problems == ()
    assert (len(pairs.images), len(pairs)) == (159, 795)
    assert pairs.images.categories is not None
    for index, image_id in enumerate(pairs.images.ids):
        own = [(area, name) for image, name, area in objects if image == image_id]
        assert pairs.images.label(index) == max(own)[1]
        assert pairs.images.categories[index] == tuple(sorted({name for _, name in own}))
