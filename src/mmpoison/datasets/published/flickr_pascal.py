"""`flickr-pascal`: the paper's first data set (section A.1): much unlabelled data and few labelled images.

Training data: all of Flickr30k, without labels, and 25 images of each of the 20 classes of PASCAL Sentences. Test data:
the other 25 of each class, 500 images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Literal, Unpack

from mmpoison.base.untrusted import (
    MAX_LINE_BYTES,
    bounded_lines,
    decode_line,
    open_bytes,
    read_json,
    read_text,
)
from mmpoison.datasets.catalogue import Count, derived
from mmpoison.datasets.published.adapter import (
    ImageOptions,
    Missing,
    PublishedFolder,
    composed_folder,
    head_of,
    join,
    needs,
    read_karpathy,
    recognise_file,
    register_published,
    split_per_class,
)
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry, is_text
from mmpoison.pairs.splits import balanced
from mmpoison.pairs.table import PairDataset

FLICKR, PASCAL = "flickr30k", "pascal-sentences"
FOLDERS = {FLICKR: (FLICKR,), PASCAL: (PASCAL, "pascal_sentences")}

# -- `flickr30k`: 31,783 photographs from Flickr with five captions each and no labels (Young et al. 2014).


TOKEN_FILES = ("results_20130124.token", "results.token")
CSV_FILES = ("results.csv", "flickr30k_images/results.csv")
KARPATHY_FILE = "dataset_flickr30k.json"
FLICKR_IMAGE_FOLDERS = (
    "flickr30k-images",
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "images",
)

_CSV_HEADER = "image_name|"

# `1000092795.jpg#0<TAB>Two young guys ...`
_TOKEN_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)")
# `1000092795.jpg| 0| Two young guys ...`, after a header; quotes mean nothing in it. In line 20,001 of Kaggle's file
# (19,999 by pandas' count) the bar between number and caption is lost.
_CSV_LINE = re.compile(r"([^|]*)\|\s*(\d+)(?:\s*\||\s+(?=[^|]+$))(.*)")


def load_flickr30k(
    root: Path | None,
    seed: int = 0,
    *,
    split: Literal["karpathy", "all-train"] | None = None,
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
    source = PublishedFolder(root, options, FLICKR)
    file = _captions_file(source.root, split)
    if file.suffix == ".json":
        entries = read_karpathy(file, source.problem)
        if split == "all-train":
            for entry in entries:
                entry.split = "train"
    else:
        entries = read_captions(file, source.problem)
    source.into_folder(entries, FLICKR_IMAGE_FOLDERS)
    return source.table(entries, file)


def _captions_file(root: Path, split: str | None) -> Path:
    if not root.is_dir():
        if split == "karpathy" and root.suffix != ".json":
            raise InputError(f"{root}: has no split: split=karpathy needs {KARPATHY_FILE}")
        return root
    names = (KARPATHY_FILE,) if split == "karpathy" else (*TOKEN_FILES, *CSV_FILES, KARPATHY_FILE)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root}: has no {' or '.join(names)}: {needs(FLICKR)}")


def read_captions(file: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    """Build one entry per image from a file with one caption per line."""
    if file.suffix == ".csv":
        pattern, layout = _CSV_LINE, "image| number| caption"
    else:
        pattern, layout = _TOKEN_LINE, "image#number, a tab and a caption"
    entries: dict[str, ImageEntry] = {}
    seen: set[tuple[str, str]] = set()
    for number, line in _text_lines(file, problem):
        where = f"{file.name} line {number}"
        if number == 1 and line.replace(" ", "").startswith(_CSV_HEADER):
            continue
        found = pattern.fullmatch(line)
        if found is None:
            problem(f"{where}: not {layout}")
            continue
        image, which, caption = found[1].strip(), found[2], found[3]
        if (image, which) in seen:
            problem(f"{where}: caption {which} of {image!r} occurs twice")
            continue
        seen.add((image, which))
        entries.setdefault(image, ImageEntry(image, [], where)).captions.append(caption)
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


def _recognise_flickr(path: Path) -> str | None:
    if found := recognise_file(*TOKEN_FILES, KARPATHY_FILE)(path):
        return found
    if path.is_file():
        return path.name if _is_csv(path) else None
    return next((name for name in CSV_FILES if _is_csv(path / name)), None)


def _is_csv(path: Path) -> bool:
    head = head_of(path, 100) if path.name == "results.csv" and path.is_file() else b""
    text = head.removeprefix(b"\xef\xbb\xbf").replace(b" ", b"")
    return text.startswith(_CSV_HEADER.encode())


register_published(FLICKR, load_flickr30k, _recognise_flickr)


# -- `pascal-sentences`: 1,000 photographs in 20 classes, about five captions each (Rashtchian et al. 2010).


JSON_FILE = "pascal_sentences.json"
PAGE_FILES = ("index.html", "pascal-sentences.html")
SENTENCE_FOLDERS = ("sentence", "sentences", "Sentences")
PASCAL_IMAGE_FOLDERS = ("images", "Images", "dataset")
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def load_pascal_sentences(
    root: Path | None,
    seed: int = 0,
    *,
    split_seed: Count = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load PASCAL Sentences.

    Args:
        root: The folder, or the JSON file alone: then every entry is kept and no image is searched.
        seed: Not used.
        split_seed: Splits the images of each class in halves. The halves depend on it and the file names alone, and are
            taken over all images of a class whether they are there or not, so two people have the same.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs: half of each class `train`, the other half `test` (section A.1 of the paper).

    Raises:
        InputError: If there are no sentences, or they are not of a known layout.
    """
    source = PublishedFolder(root, options, PASCAL)
    if source.root.is_file():
        what = source.root
        source.missing = source.missing if source.named else "keep"
    else:
        what = source.root / (_recognise_pascal(source.root) or JSON_FILE)
    if what.is_dir():
        entries = _read_folders(what, source.place, source.problem)
    elif what.suffix == ".html":
        entries = _read_page(what, source.problem)
    else:
        entries = _read_json(what, source.problem)
        source.into_folder(entries, PASCAL_IMAGE_FOLDERS)
    split_per_class(entries, None, split_seed)
    return source.table(entries, what)


def _read_json(file: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    """`{"2008_000716.jpg": {"category": "aeroplane", "captions": [...]}}`."""
    entries: list[ImageEntry] = []
    if not file.exists():
        raise InputError(f"{file}: no such file: {needs(PASCAL)}")
    listed = read_json(file)
    if not isinstance(listed, dict):
        raise InputError(f"{file}: must be a JSON object")
    for name, value in listed.items():
        where = f"{file.name} {name!r:.80}"
        category = value.get("category") if isinstance(value, dict) else None
        captions = value.get("captions") if isinstance(value, dict) else None
        if not isinstance(category, str) or not category or not isinstance(captions, list):
            problem(f"{where}: 'category' must be a class name and 'captions' a list")
        elif not is_text(name) or not is_text(category):
            problem(f"{where}: half a surrogate pair (\\ud...) is not text")
        else:
            entries.append(ImageEntry(name, captions, where, label=category))
    return entries


def _read_folders(
    sentences: Path, images_root: Path, problem: Callable[[str], None]
) -> list[ImageEntry]:
    """`sentence/aeroplane/2008_000716.txt`, one sentence a line, with `dataset/aeroplane/2008_000716.jpg`."""
    prefix = next(
        (f"{name}/" for name in PASCAL_IMAGE_FOLDERS if (images_root / name).is_dir()), ""
    )
    entries: list[ImageEntry] = []
    for file in sorted(sentences.glob("*/*txt")):
        label = file.parent.name
        # the usual download script omits the dot: `2008_000716txt`
        stem = file.name.removesuffix("txt").removesuffix(".")
        where = f"{sentences.name}/{label}/{file.name}"
        if not is_text(where):
            problem(f"{where!r:.200}: a name that is not UTF-8")
            continue
        try:
            lines = read_text(file, MAX_LINE_BYTES).splitlines()
        except InputError as error:
            problem(f"{where}: {str(error).removeprefix(f'{file}: ')}")
            continue
        captions = [line for line in lines if line.strip()]
        if not captions:
            problem(f"{where}: has no sentence")
            continue
        entries.append(
            ImageEntry(f"{prefix}{label}/{stem}.jpg", list(captions), where, label=label)
        )
    return entries


# the page does not close its cells
_CELL_ENDS = ("td", "tr", "table", "tbody", "body", "img")


class _Page(HTMLParser):
    """The table of the original page: a row with an image, then rows with its sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _CELL_ENDS:
            self._end_cell()
        if tag == "img":
            self.found.append((dict(attrs).get("src") or "", []))
        elif tag == "td":
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if tag in _CELL_ENDS:
            self._end_cell()

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def _end_cell(self) -> None:
        words = "".join(self._text or ()).split()
        if words and self.found:
            self.found[-1][1].append(" ".join(words))
        self._text = None


def _read_page(file: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    page = _Page()
    page.feed(read_text(file))
    entries: list[ImageEntry] = []
    for source, captions in page.found:
        parts = PurePosixPath(source).parts
        if len(parts) < 2 or not captions:
            problem(f"{file.name}: image {source!r:.80} has no class folder or no sentence")
            continue
        # a page saved by a browser may contain full image addresses
        entries.append(
            ImageEntry(
                "/".join(parts[-2:]), list(captions), f"{file.name} {source!r:.80}", parts[-2]
            )
        )
    return entries


def _recognise_pascal(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.name == JSON_FILE else None
    if (path / JSON_FILE).is_file():
        return JSON_FILE
    for name in SENTENCE_FOLDERS:
        if any((path / name / label).is_dir() for label in CLASSES):
            return name
    if any((path / label).is_dir() for label in CLASSES):
        return next((name for name in PAGE_FILES if (path / name).is_file()), None)
    return None


register_published(PASCAL, load_pascal_sentences, _recognise_pascal)


# -- `flickr-pascal`: the two sets combined.


def load_flickr_pascal(
    root: Path | None, seed: int = 0, *, split_seed: Count = 0, missing: Missing = "skip"
) -> PairDataset:
    """Compose the set from a folder with both data sets.

    Args:
        root: Folder that holds `flickr30k/` and `pascal-sentences/`, in any layout that those data sets read.
        seed: Not used, so that runs with different seeds share the test data.
        split_seed: Splits the images of each PASCAL class in halves.
        missing: `skip` leaves out entries whose image is not there, `keep` keeps them.

    Returns:
        Split `train`: Flickr30k unlabelled and half of each PASCAL class; split `test`: the other halves. Image ids
        begin with the folder of their data set.

    Raises:
        InputError: If a folder is missing, or holds neither of the data sets.
    """
    folder = composed_folder(root, "flickr-pascal")
    flickr = load_flickr30k(_folder(folder, FLICKR), split="all-train", missing=missing)
    return join(folder, (flickr, _pascal(folder, split_seed, missing)))


def load_pascal_test(root: Path, *, missing: Missing = "skip") -> PairDataset:
    """Load the test half of PASCAL Sentences, as in `flickr-pascal`.

    Args:
        root: Folder that holds `pascal-sentences/`.
        missing: As for `load_flickr_pascal`.
    """
    pascal = _pascal(root, 0, missing)
    # the images of the other half would be images of the target class
    return pascal.piece(pascal.images.indices(split="test"))


def _pascal(root: Path, split_seed: int, missing: Missing) -> PairDataset:
    return load_pascal_sentences(_folder(root, PASCAL), split_seed=split_seed, missing=missing)


def _folder(root: Path, name: str) -> Path:
    for folder in FOLDERS[name]:
        if (root / folder).is_dir():
            return root / folder
    raise InputError(f"{root / name}: no such folder: {needs('flickr-pascal')}")


register_published("flickr-pascal", load_flickr_pascal)
register_published("flickr-pascal-b", derived(load_flickr_pascal, balanced, "split_seed"))
