"""`coco`: MS COCO captions with the classes of their objects, 2014 and 2017 (Lin et al. 2014, Chen et al. 2015)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Unpack

import msgspec
from pydantic import Field

from mmpoison.base.progress import Progress
from mmpoison.base.text import count_phrase, one_line
from mmpoison.datasets.catalogue import Count, derived, words
from mmpoison.datasets.fetch import ARCHIVES, PublicFile, fetch_and_unpack, is_jpeg
from mmpoison.datasets.published.adapter import (
    Id,
    ImageOptions,
    PublishedFolder,
    image_folder,
    needs,
    read_lists,
    register_published,
    split_per_class,
)
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry
from mmpoison.pairs.splits import balanced, hash_pick, subset_per_class
from mmpoison.pairs.table import PairDataset

Year = Literal[2014, 2017, "2014", "2017"]
YEARS = (2014, 2017)
Parts = Literal["train", "val", "both"]
PARTS = ("train", "val")
Labels = Literal["random-object", "largest", "none"]
TestPerClass = Annotated[int, Field(ge=1)]
PAPER_DROPPED = ("toaster", "hair drier")
PAPER_TEST_PER_CLASS = 50

_CAPTIONS_NAME = re.compile(r"captions_(train|val)(2014|2017)\.json")

Problem = Callable[[str], None]


# Only needed values are built: 90% of an instances file is polygons. There are no cycles for the garbage collector.
class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str


class _Caption(msgspec.Struct, gc=False):
    image_id: Id
    caption: str


class _Object(msgspec.Struct, gc=False):
    id: int
    image_id: Id
    category_id: Id
    area: float = 0.0


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str


def load_coco(
    root: Path | None,
    seed: int = 0,
    *,
    year: Year | None = None,
    parts: Parts | None = None,
    labels: Labels = "random-object",
    splits: Literal["original", "paper"] = "original",
    test_per_class: TestPerClass = PAPER_TEST_PER_CLASS,
    drop_classes: str | Sequence[str] | None = None,
    label_seed: Count = 0,
    split_seed: Count = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load COCO's captions, labelled by its objects.

    Args:
        root: The folder with `annotations/`, that folder itself, or one file of captions in COCO's format.
        seed: Not used: labels and splits have seeds of their own, so that runs with different seeds share them.
        year: 2014 or 2017; found by the files, and needed where both are there.
        parts: `train`, `val` or `both`; by default those that are there.
        labels: `random-object` draws one of the image's objects and takes its category, so a category with more objects
            is likelier (section A.1 of the paper); `largest` takes the object with the largest area; `none` reads
            captions alone.
        splits: `original` makes COCO's train images `train` and its val images `test`; `paper` puts both together and
            takes `test_per_class` images of each class as `test`.
        test_per_class: For `paper`.
        drop_classes: Images with these labels are left out; by default toaster and hair drier for `paper`, else none.
        label_seed: Draws the labels.
        split_seed: Draws the test images.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs; `images.categories` has all categories of each image, sorted. Images without objects have no label.

    Raises:
        InputError: If files are missing or not of COCO's format, or both years are there.
    """
    source = PublishedFolder(root, options, "coco")
    if splits == "paper" and labels == "none":
        raise InputError("data option splits=paper: takes images of each class, so it needs labels")
    usually = PAPER_DROPPED if splits == "paper" else ()
    dropped = words(usually if drop_classes is None else drop_classes)
    folder, found = find_parts(source.root, year, parts)
    if not source.named:
        source.place = folder
    entries: list[ImageEntry] = []
    known: set[str] = set()
    for part in found:
        entries += _read_part(part, source.place, labels, label_seed, known, source.problem)
    if dropped:
        entries = _drop(entries, dropped, known)
    if splits == "paper":
        split_per_class(entries, test_per_class, split_seed)
    what = found[0] if len(found) == 1 else found[0].parent
    return source.table(entries, what)


def find_parts(root: Path, year: Year | None, parts: Parts | None) -> tuple[Path, list[Path]]:
    """Return the base folder of images, and the caption files to read.

    Raises:
        InputError: If a part is missing, or both years are present and none is given.
    """
    if root.is_file():
        annotations, names = root.parent, [root.name]
    else:
        annotations = root / "annotations" if (root / "annotations").is_dir() else root
        names = _captions_in(annotations)
        years = {name[-len("2014.json") : -len(".json")] for name in names}
        if year is not None:
            names = [name for name in names if name.endswith(f"{year}.json")]
        elif len(years) > 1:
            raise InputError(
                f"{annotations}: contains COCO {' and '.join(sorted(years))}: say which with year=2014 or year=2017"
            )
        if parts in PARTS:
            names = [name for name in names if f"_{parts}" in name]
        if not names or (parts == "both" and len(names) < 2):
            wanted = parts if parts in PARTS else "train and val" if parts else "train or val"
            raise InputError(
                f"{annotations}: has no captions_*{year or ''}.json of {wanted}: {needs('coco')}"
            )
    folder = annotations.parent if annotations.name == "annotations" else annotations
    return folder, [annotations / name for name in names]


def _captions_in(folder: Path) -> list[str]:
    """List the names of COCO's caption files, train before val."""
    names = (f"captions_{part}{year}.json" for part in PARTS for year in YEARS)
    return [name for name in names if (folder / name).is_file()]


def _read_part(
    file: Path, place: Path, labels: str, label_seed: int, known: set[str], problem: Problem
) -> list[ImageEntry]:
    """Read the images of one part, in file order."""
    # objects first: only a label and a few shared tuples remain when captions are read
    objects: dict[int, tuple[str, tuple[str, ...]]] = {}
    if labels != "none":
        instances = file.with_name(file.name.replace("captions", "instances", 1))
        objects = _read_objects(instances, labels, label_seed, known, problem)
    lists = read_lists(file, {"images": _Image, "annotations": _Caption}, problem)
    captions: dict[int, list[Any]] = {}
    names: list[tuple[int, int, str]] = []
    for index, image in enumerate(lists["images"]):
        if image is None:
            continue
        if image.id in captions:
            problem(f"{file.name} images[{index}]: image id {image.id} occurs twice")
            continue
        captions[image.id] = []
        names.append((index, image.id, image.file_name))
    unlisted: list[int] = []
    for caption in lists["annotations"]:
        if caption is None:
            continue
        if caption.image_id in captions:
            captions[caption.image_id].append(caption.caption)
        else:
            unlisted.append(caption.image_id)
    del lists
    _report_unlisted(file, "caption", unlisted, problem)
    first = names[0][2] if names else None
    named = _CAPTIONS_NAME.fullmatch(file.name)
    folder = "".join(named.groups()) if named else "images"
    prefix = image_folder(place, (folder, f"images/{folder}"), first)
    split = "test" if named and named[1] == "val" else "train"
    entries = []
    for index, image_id, name in names:
        label, categories = objects.get(image_id, (None, ()))
        where = f"{file.name} images[{index}]"
        entries.append(
            ImageEntry(prefix + name, captions[image_id], where, label, split, categories)
        )
    return entries


def _read_objects(
    file: Path, labels: str, label_seed: int, known: set[str], problem: Problem
) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Return label and sorted categories of each image with objects, by image id."""
    if not file.is_file():
        raise InputError(
            f"{file}: no such file: labels={labels} needs the objects; labels=none reads captions alone"
        )
    lists = read_lists(file, {"annotations": _Object, "categories": _Category}, problem)
    names = {category.id: category.name for category in lists["categories"] if category}
    known.update(names.values())
    of_image: dict[int, list[_Object]] = defaultdict(list)
    unlisted: list[int] = []
    for thing in lists["annotations"]:
        if thing is None:
            continue
        if thing.category_id in names:
            of_image[thing.image_id].append(thing)
        else:
            unlisted.append(thing.category_id)
    del lists
    _report_unlisted(file, "object", unlisted, problem, of="category")
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    found: dict[int, tuple[str, tuple[str, ...]]] = {}
    for image_id, things in of_image.items():
        # the choice must not depend on the order of the file
        things.sort(key=lambda thing: thing.id)
        if labels == "largest":
            chosen = max(things, key=lambda thing: thing.area)
        else:
            chosen = things[hash_pick(len(things), str(image_id), label_seed, "coco/label")]
        categories = tuple(sorted({names[thing.category_id] for thing in things}))
        found[image_id] = (
            names[chosen.category_id],
            shared.setdefault(categories, categories),
        )
    return found


def _report_unlisted(
    file: Path, what: str, unlisted: Sequence[int], problem: Problem, *, of: str = "image"
) -> None:
    if unlisted:
        problem(
            f"{file.name}: {count_phrase(len(unlisted), what)} of {of} ids that the file does not list, "
            f"the first {unlisted[0]}"
        )


def _drop(entries: list[ImageEntry], dropped: Sequence[str], known: set[str]) -> list[ImageEntry]:
    if unknown := sorted(set(dropped) - known):
        names = one_line(", ".join(sorted(known))) or "none"
        raise InputError(
            f"data option drop_classes: {unknown[0]!r} is not one of the categories: {names}"
        )
    return [entry for entry in entries if entry.label not in dropped]


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if _CAPTIONS_NAME.fullmatch(path.name) else None
    for folder in (path / "annotations", path):
        if names := _captions_in(folder):
            return str((folder / names[0]).relative_to(path))
    return None


def _archives(year: int, parts: Sequence[str], images: bool) -> list[PublicFile]:
    """List the downloads for a part of COCO: the small annotations first."""
    captions = {
        f"annotations/{kind}_{part}{year}.json"
        for kind in ("captions", "instances")
        for part in parts
    }
    annotations = f"annotations_trainval{year}.zip"
    names = [annotations, *(f"{part}{year}.zip" for part in parts if images)]
    return [
        replace(
            ARCHIVES["coco"][name],
            wanted=captions.__contains__ if name == annotations else is_jpeg,
        )
        for name in names
    ]


def build_coco(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    year: Year = 2014,
    parts: Parts = "both",
    images: bool = True,
    keep_archives: bool = False,
) -> Path:
    """Fetch COCO: 20 GB for 2014, 1 GB for the val part of 2017.

    Args:
        out: New folder.
        seed: Not used.
        progress: Called with (megabytes, all megabytes).
        year: 2014 (the paper's) or 2017.
        parts: `train`, `val` or `both`.
        images: Whether the photographs are fetched, or captions and objects alone (0.25 GB).
        keep_archives: Leave the zip files in the cache folder.

    Raises:
        InputError: If the disk is too small or a file cannot be had.
    """
    chosen = PARTS if parts == "both" else (parts,)
    files = _archives(int(year), chosen, images)
    return fetch_and_unpack("coco", files, out, keep_archives=keep_archives, progress=progress)


register_published("coco", load_coco, _recognise, build_coco)


# -- `coco-paper`, `coco-m`, `coco-s` and `coco-paper-b`: COCO as the paper uses it (section A.1).


FOLDER = "coco"


def load_coco_paper(
    root: Path | None,
    seed: int = 0,
    *,
    year: Year = 2014,
    test_per_class: TestPerClass = PAPER_TEST_PER_CLASS,
    label_seed: Count = 0,
    split_seed: Count = 0,
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
    """Return COCO's own folder. Recipes and users give one folder for all data sets of the paper."""
    if root is not None and (root / FOLDER).is_dir() and not (root / "annotations").is_dir():
        return root / FOLDER
    return root


def _share(share: float) -> Callable[..., PairDataset]:
    return derived(
        load_coco_paper, lambda pairs, seed: subset_per_class(pairs, share, seed), "split_seed"
    )


register_published("coco-paper", load_coco_paper)
register_published("coco-m", _share(0.5))
register_published("coco-s", _share(0.25))
register_published("coco-paper-b", derived(load_coco_paper, balanced, "split_seed"))
