"""`rsicd` and `ucm-captions`: satellite photos with captions, as their authors publish them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Unpack

from mmpoison.base.text import count_of
from mmpoison.base.untrusted import read_text
from mmpoison.datasets.published.adapter import (
    ImageOptions,
    PublishedFolder,
    head_of,
    read_karpathy,
    recognise_file,
    register_published,
    some_names,
)
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

# -- `rsicd`: 10,921 satellite images in 31 classes, five captions each (Lu et al. 2018), as its authors
# publish it.


RSICD_CAPTIONS_FILE = "dataset_rsicd.json"
CLASS_FOLDERS = ("txtclasses_rsicd", "txtclasses")
RSICD_IMAGE_FOLDERS = ("RSICD_images", "images")

_NAMED = re.compile(r"([A-Za-z]+)_\d+\.\w+")


def load_rsicd(
    root: Path | None,
    seed: int = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load RSICD.

    Args:
        root: The folder, or the file of captions.
        seed: Not used.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs in the authors' splits. The class of an image is that of the list in `txtclasses_rsicd/` that holds
        it, in lower case, or else the word before the number in its name (`airport_1.jpg`).

    Raises:
        InputError: If the captions are missing or not of this format.
    """
    source = PublishedFolder(root, options, "rsicd")
    file = source.file(RSICD_CAPTIONS_FILE)
    entries = read_karpathy(file, source.problem)
    classes = _read_classes(source.folder, source.problem)
    unknown = []
    for entry in entries:
        name = PurePosixPath(entry.image_id).name
        named = _NAMED.fullmatch(name)
        entry.label = classes.get(name) or (named.group(1).lower() if named else None)
        if entry.label is None:
            unknown.append(name)
    source.into_folder(entries, RSICD_IMAGE_FOLDERS)
    if unknown:
        source.problem(
            f"{file.name}: the class of {count_of(len(unknown), 'image')} is unknown, so they get no label (unpack "
            f"{CLASS_FOLDERS[0]}/): {some_names(unknown)}"
        )
    return source.table(entries, file)


def _read_classes(folder: Path, problem: Callable[[str], None]) -> dict[str, str]:
    """Read the class of each image by file name, from files such as `airport.txt` with one file name per line."""
    classes: dict[str, str] = {}
    place = next((folder / name for name in CLASS_FOLDERS if (folder / name).is_dir()), None)
    for file in sorted(place.glob("*.txt")) if place else []:
        try:
            names = read_text(file).split()
        except InputError as error:
            problem(f"{file.name}: {str(error).removeprefix(f'{file}: ')}, its class is not used")
            continue
        label = file.stem.lower()
        for name in names:
            if classes.setdefault(name, label) != label:
                problem(f"{file.name}: {name} is in class {classes[name]!r} already")
    return classes


register_published("rsicd", load_rsicd, recognise_file(RSICD_CAPTIONS_FILE))


# -- `ucm-captions`: the 2,100 aerial images of UC Merced in 21 classes, five captions each (Qu et al.
# 2016).


UCM_CAPTIONS_FILE = "dataset.json"
UCM_IMAGE_FOLDERS = ("imgs", "images")
PER_CLASS = 100
# images are numbered from 1, class by class in this order
CLASSES = (
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential",
    "forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark",
    "overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
)  # fmt: skip
# Sydney-Captions has the same file names, with 613 images of other classes
_SYDNEY = 613


def load_ucm_captions(
    root: Path | None,
    seed: int = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load UCM-Captions.

    Args:
        root: The folder, or the file of captions.
        seed: Not used.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs in the authors' splits. An image's number determines its class: 1 to 100 agricultural, 101 to 200
        airplane, and so on.

    Raises:
        InputError: If the captions are missing or not of this format, or are those of Sydney-Captions.
    """
    source = PublishedFolder(root, options, "ucm-captions")
    file = source.file(UCM_CAPTIONS_FILE)
    entries = read_karpathy(file, source.problem)
    if len(entries) == _SYDNEY:
        raise InputError(
            f"{file}: has {_SYDNEY} images, so it is Sydney-Captions, not UCM-Captions, which has other classes"
        )
    kept = []
    for entry in entries:
        entry.label = class_of(entry.image_id)
        if entry.label is None:
            source.problem(f"{entry.where}: {entry.image_id!r} is not a number from 1 to 2100")
            continue
        kept.append(entry)
    source.into_folder(kept, UCM_IMAGE_FOLDERS)
    return source.table(kept, file)


def class_of(file_name: str) -> str | None:
    """Return the class of an image from its number, or None.

    >>> class_of("101.tif"), class_of("2100.tif"), class_of("0.tif")
    ('airplane', 'tenniscourt', None)
    """
    stem = PurePosixPath(file_name).stem
    # at most four digits: longer numbers are not converted to integers
    if not (stem.isascii() and stem.isdecimal() and len(stem) <= 4):
        return None
    place = (int(stem) - 1) // PER_CLASS
    return CLASSES[place] if 0 <= place < len(CLASSES) else None


def _recognise(path: Path) -> str | None:
    file = path if path.is_file() else path / UCM_CAPTIONS_FILE
    if file.name != UCM_CAPTIONS_FILE or not file.is_file():
        return None
    head = head_of(file, 2000)
    # many data sets have a `dataset.json`, few have TIFF images in Karpathy's layout
    return UCM_CAPTIONS_FILE if b'"images"' in head and b'.tif"' in head else None


register_published("ucm-captions", load_ucm_captions, _recognise)
