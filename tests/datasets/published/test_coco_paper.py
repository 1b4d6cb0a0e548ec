"""`coco-paper`, `coco-m`, `coco-s` and `coco-paper-b`: in small, and the real counts where the data are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import SHARED
from tests.datasets.published.conftest import write_coco

from mmpoison.datasets import DATASETS, PairDataset, load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of

NAMES = {1: "boat", 2: "dog", 3: "toaster", 4: "hair drier", 5: "zebra"}
SETS = ("coco-paper", "coco-m", "coco-s", "coco-paper-b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """30 boats, 20 dogs, 10 zebras, 3 toasters, a hair drier and 2 images without objects."""
    numbers = iter(range(1, 1000))
    contents = {
        "train": [1] * 20 + [2] * 12 + [5] * 4 + [3] * 3 + [0] * 2,
        "val": [1] * 10 + [2] * 8 + [5] * 6 + [4],
    }
    of_image: dict[int, int] = {}
    for part, categories in contents.items():
        own = {next(numbers): category for category in categories}
        of_image.update(own)
        write_coco(
            tmp_path,
            {n: [c] if c else [] for n, c in own.items()},
            part,
            2014,
            captions=5,
            say=lambda image, n: f"{NAMES.get(of_image[image], 'thing')} {image} {n}",
            categories=NAMES,
        )
    return tmp_path


def load(name: str, root: Path, **options: object) -> PairDataset:
    return load_dataset(name, root, options={"test_per_class": 6, **options})


def train(pairs: PairDataset) -> Counter[str | None]:
    labels = labels_of(pairs)
    return Counter(labels[index] for index in pairs.images.indices(split="train"))


def part_images(pairs: PairDataset, split: str) -> list[str]:
    return [str(pairs.images.ids[index]) for index in pairs.images.indices(split=split)]


def test_counts(root: Path) -> None:
    pairs = load("coco-paper", root)
    assert pairs.classes == ("boat", "dog", "zebra")
    assert train(pairs) == {"boat": 24, "dog": 14, "zebra": 4, None: 2}
    assert train(load("coco-m", root)) == {"boat": 12, "dog": 7, "zebra": 2, None: 1}
    assert train(load("coco-s", root)) == {"boat": 6, "dog": 4, "zebra": 1, None: 1}
    for name in SETS[:3]:
        assert load(name, root).counts()["splits"]["test"] == {"images": 18, "pairs": 90}
    balanced = load("coco-paper-b", root)
    assert len(balanced) == len(balanced.images) == len(pairs.images)


def test_all_have_the_same_test_data(root: Path) -> None:
    whole = load("coco-paper", root)
    for name in ("coco-m", "coco-s"):
        part = load(name, root)
        assert [line for line in part.lines() if line["split"] == "test"] == [
            line for line in whole.lines() if line["split"] == "test"
        ]
    assert part_images(load("coco-paper-b", root), "test") == part_images(whole, "test")


def test_the_smaller_are_part_of_the_larger(root: Path) -> None:
    whole, half, quarter = (set(part_images(load(name, root), "train")) for name in SETS[:3])
    assert quarter < half < whole
    assert not whole & set(part_images(load("coco-paper", root), "test"))


def test_the_folder_that_holds_coco_will_do(root: Path, tmp_path: Path) -> None:
    (root / "annotations").rename(tmp_path / "moved")
    (tmp_path / "around" / "coco").mkdir(parents=True)
    (tmp_path / "moved").rename(tmp_path / "around" / "coco" / "annotations")
    around = tmp_path / "around"
    for name in ("coco-paper", "coco-paper-b"):
        kept = {"missing": "keep"}
        whole = load(name, around, **kept)
        assert len(whole)
        assert whole.fingerprint == load(name, around / "coco", **kept).fingerprint


def test_seeds_and_options(root: Path) -> None:
    assert len({DATASETS[name].options for name in SETS}) == 1
    for name in SETS:
        pairs = load(name, root)
        assert load_dataset(name, root, seed=5, options={"test_per_class": 6}).fingerprint == (
            pairs.fingerprint
        )
        assert load(name, root, split_seed=1).fingerprint != pairs.fingerprint


def test_the_fingerprints_are_pinned(root: Path) -> None:
    assert {name: load(name, root).fingerprint[:16] for name in SETS} == PINNED


PINNED = {
    "coco-paper": "4bd5b394e7828d5a",
    "coco-m": "f14306b4755bc7c0",
    "coco-s": "2ac6a2c4e73dd083",
    "coco-paper-b": "c1bf08ba37069bef",
}


def test_too_few_images_for_the_test(root: Path) -> None:
    with pytest.raises(InputError, match=r"class 'boat' has 30 images"):
        load_dataset("coco-m", root)
    with pytest.raises(InputError, match="year"):
        load("coco-s", root, year=2015)
    with pytest.raises(InputError, match="split_seed"):
        load("coco-paper-b", root, split_seed=-1)


def test_the_other_year_is_not_taken_silently(root: Path) -> None:
    for file in (root / "annotations").iterdir():
        file.rename(file.with_name(file.name.replace("2014", "2017")))
    with pytest.raises(InputError, match=r"captions_\*2014.json"):
        load("coco-paper", root)
    assert len(load("coco-paper", root, year=2017).images) == 62


@pytest.mark.skipif(
    not (SHARED / "coco_mini" / "annotations").is_dir(), reason=f"coco_mini is not at {SHARED}"
)
def test_the_real_sample_is_too_small_for_a_test(tmp_path: Path) -> None:
    options = {"year": 2017, "test_per_class": 1}
    with pytest.raises(InputError, match="has 1 image,"):
        load_dataset("coco-paper", SHARED / "coco_mini", options=options)
