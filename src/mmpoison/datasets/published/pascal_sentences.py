"""`pascal-sentences`: 1,000 photographs in 20 classes, about five captions each (Rashtchian et al. 2010)."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Unpack

from mmpoison.base.untrusted import MAX_LINE_BYTES, parse_json_pairs, read_text
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.entries import ImageEntry
from mmpoison.datasets.options import whole_number
from mmpoison.datasets.published.adapter import ImageOptions, PublishedFolder, split_per_class
from mmpoison.errors import InputError
from mmpoison.pairs.builder import is_text
from mmpoison.pairs.table import PairDataset

JSON_FILE = "pascal_sentences.json"
PAGE_FILES = ("index.html", "pascal-sentences.html")
SENTENCE_FOLDERS = ("sentence", "sentences", "Sentences")
IMAGE_FOLDERS = ("images", "Images", "dataset")
CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

WHERE_FROM = (
    "http://vision.cs.uiuc.edu/pascal-sentences/ (gone; copies exist): a folder with "
    f"{JSON_FILE} and images/, or dataset/CLASS/ and sentence/CLASS/, or the page with its images"
)
TERMS = (
    "no licence is stated for the sentences; the photographs belong to their owners and fall under Flickr's terms of "
    "use: for research, not to be passed on; cite Rashtchian et al. 2010 and Everingham et al. 2010"
)


def load_pascal_sentences(
    root: Path | None,
    seed: int = 0,
    *,
    split_seed: int = 0,
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
    split_seed = whole_number("split_seed", split_seed)
    source = PublishedFolder(root, options, f"pascal-sentences needs {WHERE_FROM}")
    if source.root.is_file():
        what = source.root
        source.missing = source.missing if source.named else "keep"
    else:
        what = source.root / (_recognise(source.root) or JSON_FILE)
    if what.is_dir():
        entries = _read_folders(what, source.place, source.problem)
    elif what.suffix == ".html":
        entries = _read_page(what, source.problem)
    else:
        entries = _read_json(what, source.problem)
        source.into_folder(entries, IMAGE_FOLDERS)
    split_per_class(entries, None, split_seed)
    return source.table(entries, what)


def _read_json(file: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    """`{"2008_000716.jpg": {"category": "aeroplane", "captions": [...]}}`."""
    entries: list[ImageEntry] = []
    if not file.exists():
        raise InputError(f"{file}: no such file, pascal-sentences needs {WHERE_FROM}")
    for name, value in parse_json_pairs(read_text(file), file):
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
    prefix = next((f"{name}/" for name in IMAGE_FOLDERS if (images_root / name).is_dir()), "")
    entries: list[ImageEntry] = []
    for file in sorted(sentences.glob("*/*txt")):
        label = file.parent.name
        # the usual script for the site forgets the dot: `2008_000716txt`
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
        # a page saved by a browser may name its images by their whole address
        entries.append(
            ImageEntry(
                "/".join(parts[-2:]), list(captions), f"{file.name} {source!r:.80}", parts[-2]
            )
        )
    return entries


def _recognise(path: Path) -> str | None:
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


register(
    DataSource(
        name="pascal-sentences",
        summary="1,000 everyday photographs in 20 classes, about five captions each",
        where_from=WHERE_FROM,
        terms=TERMS,
        load=load_pascal_sentences,
        recognise=_recognise,
    )
)
