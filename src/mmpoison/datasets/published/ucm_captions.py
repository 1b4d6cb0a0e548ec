"""`ucm-captions`: the 2,100 aerial images of UC Merced in 21 classes, five captions each (Qu et al. 2016)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Unpack

from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.published.adapter import ImageOptions, PublishedFolder
from mmpoison.datasets.published.karpathy_json import read_karpathy
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

CAPTIONS_FILE = "dataset.json"
IMAGE_FOLDERS = ("imgs", "images")
PER_CLASS = 100
# images are numbered from 1 through the classes in this order
CLASSES = (
    "agricultural",
    "airplane",
    "baseballdiamond",
    "beach",
    "buildings",
    "chaparral",
    "denseresidential",
    "forest",
    "freeway",
    "golfcourse",
    "harbor",
    "intersection",
    "mediumresidential",
    "mobilehomepark",
    "overpass",
    "parkinglot",
    "river",
    "runway",
    "sparseresidential",
    "storagetanks",
    "tenniscourt",
)
# Sydney-Captions comes in the same files, with 613 images of other classes
_SYDNEY = 613

WHERE_FROM = f"https://github.com/201528014227051/RSICD_optimal (UCM_captions): a folder with {CAPTIONS_FILE} and imgs/"
TERMS = (
    "no licence is stated for the captions: for research, not to be passed on; the images are from the USGS National "
    "Map; cite Qu et al. 2016 and Yang and Newsam 2010"
)


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
        The pairs in the authors' splits. The class of an image goes by its number: 1 to 100 agricultural, 101 to 200
        airplane, and so on.

    Raises:
        InputError: If the captions are missing or not of this format, or are those of Sydney-Captions.
    """
    source = PublishedFolder(root, options, f"ucm-captions needs {WHERE_FROM}")
    file = source.file(CAPTIONS_FILE)
    entries = read_karpathy(file, source.problem)
    if len(entries) == _SYDNEY:
        raise InputError(
            f"{file}: has {_SYDNEY} images, which is Sydney-Captions and not UCM-Captions: its classes are others"
        )
    kept = []
    for entry in entries:
        entry.label = class_of(entry.image_id)
        if entry.label is None:
            source.problem(f"{entry.where}: {entry.image_id!r} is no number from 1 to 2100")
            continue
        kept.append(entry)
    source.into_folder(kept, IMAGE_FOLDERS)
    return source.table(kept, file)


def class_of(file_name: str) -> str | None:
    """Return the class of an image by its number, or None.

    >>> class_of("101.tif"), class_of("2100.tif"), class_of("0.tif")
    ('airplane', 'tenniscourt', None)
    """
    stem = PurePosixPath(file_name).stem
    # four digits at most: longer numbers are not turned into integers at all
    if not (stem.isascii() and stem.isdecimal() and len(stem) <= 4):
        return None
    place = (int(stem) - 1) // PER_CLASS
    return CLASSES[place] if 0 <= place < len(CLASSES) else None


def _recognise(path: Path) -> str | None:
    file = path if path.is_file() else path / CAPTIONS_FILE
    if file.name != CAPTIONS_FILE or not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            head = stream.read(2000)
    except OSError:
        return None
    # many data sets have a `dataset.json`, few have TIFF images in Karpathy's layout
    return CAPTIONS_FILE if b'"images"' in head and b'.tif"' in head else None


register(
    DataSource(
        name="ucm-captions",
        summary="2,100 aerial images of UC Merced in 21 classes, five captions each",
        where_from=WHERE_FROM,
        terms=TERMS,
        load=load_ucm_captions,
        recognise=_recognise,
    )
)
