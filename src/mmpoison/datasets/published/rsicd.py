"""`rsicd`: 10,921 satellite images in 31 classes, five captions each (Lu et al. 2018), as its authors publish it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mmpoison.base.phrasing import count_of
from mmpoison.base.untrusted import read_text
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.published.adapter import build_table, image_folder, images_root, some_names
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
    *,
    images: str | Path | None = None,
    missing: str = "skip",
) -> PairDataset:
    """Load RSICD.

    Args:
        root: The folder, or the file of captions.
        seed: Not used.
        images: Folder of the images, where it is elsewhere.
        missing: `skip` leaves out entries whose image is not there, `keep` keeps them.

    Returns:
        The pairs in the authors' splits. The class of an image is that of the list in `txtclasses_rsicd/` that holds
        it, in lower case, or else the word before the number in its name (`airport_1.jpg`).

    Raises:
        InputError: If the captions are missing or not of this format.
    """
    if root is None:
        raise InputError(f"rsicd needs {WHERE_FROM}")
    folder, file = (root, root / CAPTIONS_FILE) if root.is_dir() else (root.parent, root)
    problems: list[str] = []
    entries = read_karpathy(file, problems.append)
    classes = _read_classes(folder, problems.append)
    place = images_root(folder, images)
    prefix = ""
    if images is None:
        prefix = image_folder(place, IMAGE_FOLDERS, entries[0].image_id if entries else None)
    unknown = []
    for entry in entries:
        name = PurePosixPath(entry.image_id).name
        named = _NAMED.fullmatch(name)
        entry.label = classes.get(name) or (named.group(1).lower() if named else None)
        if entry.label is None:
            unknown.append(name)
        entry.image_id = prefix + entry.image_id
    if unknown:
        problems.append(
            f"{file.name}: the class of {count_of(len(unknown), 'image')} is not known, no label is given (unpack "
            f"{CLASS_FOLDERS[0]}/): {some_names(unknown)}"
        )
    in_hand = images is not None
    return build_table(place, entries, file, missing=missing, problems=problems, in_hand=in_hand)


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


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.name == CAPTIONS_FILE else None
    return CAPTIONS_FILE if (path / CAPTIONS_FILE).is_file() else None


register(
    DataSource(
        name="rsicd",
        summary="10,921 satellite images in 31 classes, five captions each",
        where_from=WHERE_FROM,
        terms=TERMS,
        load=load_rsicd,
        recognise=_recognise,
    )
)
