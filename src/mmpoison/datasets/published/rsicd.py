"""`rsicd`: 10,921 satellite images in 31 classes, five captions each (Lu et al. 2018), as its authors publish it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Unpack

from mmpoison.base.phrasing import count_of
from mmpoison.base.untrusted import read_text
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.published.adapter import (
    ImageOptions,
    PublishedFolder,
    recognise_file,
    some_names,
)
from mmpoison.datasets.published.karpathy_json import read_karpathy
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

CAPTIONS_FILE = "dataset_rsicd.json"
CLASS_FOLDERS = ("txtclasses_rsicd", "txtclasses")
IMAGE_FOLDERS = ("RSICD_images", "images")

WHERE_FROM = (
    f"https://github.com/201528014227051/RSICD_optimal: a folder with {CAPTIONS_FILE}, RSICD_images/ and "
    f"{CLASS_FOLDERS[0]}/"
)
TERMS = "no licence is stated: for research, not to be passed on; cite Lu et al. 2018"

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
    source = PublishedFolder(root, options, f"rsicd needs {WHERE_FROM}")
    file = source.file(CAPTIONS_FILE)
    entries = read_karpathy(file, source.problem)
    classes = _read_classes(source.folder, source.problem)
    unknown = []
    for entry in entries:
        name = PurePosixPath(entry.image_id).name
        named = _NAMED.fullmatch(name)
        entry.label = classes.get(name) or (named.group(1).lower() if named else None)
        if entry.label is None:
            unknown.append(name)
    source.into_folder(entries, IMAGE_FOLDERS)
    if unknown:
        source.problem(
            f"{file.name}: the class of {count_of(len(unknown), 'image')} is not known, no label is given (unpack "
            f"{CLASS_FOLDERS[0]}/): {some_names(unknown)}"
        )
    return source.table(entries, file)


def _read_classes(folder: Path, problem: Callable[[str], None]) -> dict[str, str]:
    """Class of each image by file name, from `airport.txt` and its like, one file name a line."""
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


register(
    DataSource(
        name="rsicd",
        summary="10,921 satellite images in 31 classes, five captions each",
        where_from=WHERE_FROM,
        terms=TERMS,
        load=load_rsicd,
        recognise=recognise_file(CAPTIONS_FILE),
    )
)
