"""`coco-paper`, `coco-m`, `coco-s` and `coco-paper-b`: COCO as the paper uses it (section A.1).

COCO 2014 train and val together; the label of an image is the category of one of its objects, drawn with one ticket an
object; images labelled toaster and hair drier are left out; 50 images of each of the other 78 classes are the test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from mmpoison.datasets.catalogue import DataSource, derived, register
from mmpoison.datasets.published.adapter import ImageOptions
from mmpoison.datasets.published.coco import PAPER_TEST_PER_CLASS, TERMS, load_coco
from mmpoison.pairs.splits import balanced, subset_per_class
from mmpoison.pairs.table import PairDataset

WHERE_FROM = (
    "https://cocodataset.org/#download: a folder with annotations/captions_*2014.json and instances_*2014.json, "
    "train2014/ and val2014/; mmpoison data build coco --out DIR fetches it"
)

FOLDER = "coco"


def load_coco_paper(
    root: Path | None,
    seed: int = 0,
    *,
    year: int | str = 2014,
    test_per_class: int = PAPER_TEST_PER_CLASS,
    label_seed: int = 0,
    split_seed: int = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load the paper's COCO: 78 classes, 3,900 test images, everything else training data.

    Args:
        root: A folder of COCO, or the folder that holds it as `coco/`.
        seed: Not used, so that runs with different seeds share labels and test data.
        year: 2014 as in the paper, or 2017: the same images, divided into train and val in another way.
        test_per_class: Test images of each class.
        label_seed: Draws the labels.
        split_seed: Draws the test images.
        **options: Which images are used, see `ImageOptions`.

    Raises:
        InputError: If files are missing or broken, or a class has fewer images than its test needs.
    """
    return load_coco(
        _folder(root),
        year=year,
        parts="both",
        labels="random-object",
        splits="paper",
        test_per_class=test_per_class,
        label_seed=label_seed,
        split_seed=split_seed,
        **options,
    )


def _folder(root: Path | None) -> Path | None:
    """Return COCO's own folder; recipes and users name one folder for all data sets of the paper."""
    if root is not None and (root / FOLDER).is_dir() and not (root / "annotations").is_dir():
        return root / FOLDER
    return root


def _share(share: float) -> Callable[..., PairDataset]:
    return derived(
        load_coco_paper, lambda pairs, seed: subset_per_class(pairs, share, seed), "split_seed"
    )


for _name, _load, _what in (
    ("coco-paper", load_coco_paper, "the paper's COCO: 78 classes, 50 test images each"),
    ("coco-m", _share(0.5), "COCO-M: half of coco-paper's training data, the same test"),
    ("coco-s", _share(0.25), "COCO-S: a quarter of coco-paper's training data, the same test"),
    (
        "coco-paper-b",
        derived(load_coco_paper, balanced, "split_seed"),
        "coco-paper with one caption an image",
    ),
):
    register(
        DataSource(
            name=_name,
            summary=_what,
            where_from=WHERE_FROM,
            terms=TERMS,
            load=_load,
            home="coco",
            parts=("coco",),
        )
    )
