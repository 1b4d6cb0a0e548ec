"""`flickr30k`: 31,783 photographs from Flickr with five captions each and no labels (Young et al. 2014)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Unpack

from mmpoison.base.untrusted import bounded_lines, decode_line, open_bytes
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.entries import ImageEntry
from mmpoison.datasets.options import one_of
from mmpoison.datasets.published.adapter import ImageOptions, PublishedFolder, recognise_file
from mmpoison.datasets.published.karpathy_json import read_karpathy
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

TOKEN_FILES = ("results_20130124.token", "results.token")
CSV_FILES = ("results.csv", "flickr30k_images/results.csv")
KARPATHY_FILE = "dataset_flickr30k.json"
IMAGE_FOLDERS = (
    "flickr30k-images",
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "images",
)

WHERE_FROM = (
    "https://shannon.cs.illinois.edu/DenotationGraph/ (fill in its form): a folder with "
    f"{TOKEN_FILES[0]}, Kaggle's results.csv or Karpathy's {KARPATHY_FILE}, and flickr30k-images/"
)
TERMS = (
    "for non-commercial research and education; the photographs belong to their owners and fall under Flickr's terms "
    "of use; cite Young et al. 2014"
)

_CSV_HEADER = "image_name|"
# in line 20,001 of Kaggle's file (19,999 by pandas' count) the bar between number and caption is lost
_LOST_BAR = re.compile(r"(\d+)\s+(\S.*)")


def load_flickr30k(
    root: Path | None,
    seed: int = 0,
    *,
    split: str | None = None,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load Flickr30k from whichever file of captions there is.

    Args:
        root: The folder, or one file of captions.
        seed: Not used.
        split: `karpathy` (29,000 train, 1,014 val, 1,000 test; from Karpathy's file alone) or `all-train`. By default
            the file decides, and where there are several, the one with all 31,783 images, all of them train, as in
            the paper.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs, without labels.

    Raises:
        InputError: If there is no file of captions, or it is not of its format.
    """
    one_of("split", split, (None, "karpathy", "all-train"))
    source = PublishedFolder(root, options, f"flickr30k needs {WHERE_FROM}")
    file = _captions_file(source.root, split)
    if file.suffix == ".json":
        entries = read_karpathy(file, source.problem)
        if split == "all-train":
            for entry in entries:
                entry.split = "train"
    else:
        lines = _csv_lines if file.suffix == ".csv" else _token_lines
        entries = _gather(lines(file, source.problem), file, source.problem)
    source.into_folder(entries, IMAGE_FOLDERS)
    return source.table(entries, file)


def _captions_file(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        if split == "karpathy" and root.suffix != ".json":
            raise InputError(f"{root}: has no split, split=karpathy needs {KARPATHY_FILE}")
        return root
    names = (KARPATHY_FILE,) if split == "karpathy" else (*TOKEN_FILES, *CSV_FILES, KARPATHY_FILE)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root}: has no {' or '.join(names)}, flickr30k needs {WHERE_FROM}")


def _gather(
    lines: Iterator[tuple[int, str, str, str]], file: Path, problem: Callable[[str], None]
) -> list[ImageEntry]:
    """Build one entry per image from lines of (line number, image, number of the caption, caption)."""
    entries: dict[str, ImageEntry] = {}
    seen: set[tuple[str, str]] = set()
    for number, image, which, caption in lines:
        where = f"{file.name} line {number}"
        if (image, which) in seen:
            problem(f"{where}: caption {which} of {image!r} occurs twice")
            continue
        seen.add((image, which))
        if image not in entries:
            entries[image] = ImageEntry(image, [], where)
        entries[image].captions.append(caption)
    return list(entries.values())


def _text_lines(file: Path, problem: Callable[[str], None]) -> Iterator[tuple[int, str]]:
    with open_bytes(file) as stream:
        for number, raw in enumerate(bounded_lines(stream, file), start=1):
            try:
                line = decode_line(raw, f"{file.name} line {number}", first=number == 1)
            except InputError as error:
                problem(str(error))
                continue
            if line.strip():
                yield number, line.rstrip("\r\n")


def _token_lines(file: Path, problem: Callable[[str], None]) -> Iterator[tuple[int, str, str, str]]:
    """`1000092795.jpg#0<TAB>Two young guys ...`."""
    for number, line in _text_lines(file, problem):
        key, tab, caption = line.partition("\t")
        image, mark, which = key.rpartition("#")
        if tab and mark and image and which.isdecimal():
            yield number, image, which, caption
        else:
            problem(f"{file.name} line {number}: not image#number, a tab and a caption")


def _csv_lines(file: Path, problem: Callable[[str], None]) -> Iterator[tuple[int, str, str, str]]:
    """`1000092795.jpg| 0| Two young guys ...`, after a header; quotes mean nothing in it."""
    for number, line in _text_lines(file, problem):
        if number == 1 and line.replace(" ", "").startswith(_CSV_HEADER):
            continue
        image, _, rest = line.partition("|")
        which, bar, caption = (part.strip() for part in rest.partition("|"))
        if not bar and (lost := _LOST_BAR.fullmatch(which)):
            which, caption = lost.groups()
        elif not bar or not which.isdecimal():
            problem(f"{file.name} line {number}: not image| number| caption")
            continue
        yield number, image.strip(), which, caption


def _recognise(path: Path) -> str | None:
    if found := recognise_file(*TOKEN_FILES, KARPATHY_FILE)(path):
        return found
    if path.is_file():
        return path.name if _is_csv(path) else None
    return next((name for name in CSV_FILES if _is_csv(path / name)), None)


def _is_csv(path: Path) -> bool:
    if path.name != "results.csv" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(100)
    except OSError:
        return False
    text = head.removeprefix(b"\xef\xbb\xbf").replace(b" ", b"")
    return text.startswith(_CSV_HEADER.encode())


register(
    DataSource(
        name="flickr30k",
        summary="31,783 everyday photographs, five captions each, no labels",
        where_from=WHERE_FROM,
        terms=TERMS,
        load=load_flickr30k,
        recognise=_recognise,
    )
)
