"""`visual-genome`: region descriptions as captions, labelled by keywords (Krishna et al. 2017).

The region file has 700 MB. It is read image by image, keeping only the chosen captions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import msgspec
import numpy as np

from mmpoison.base.progress import Progress
from mmpoison.datasets.catalogue import Count, derived, words
from mmpoison.datasets.fetch import ARCHIVES, fetch_and_unpack, is_jpeg
from mmpoison.datasets.published.adapter import (
    Id,
    ImageOptions,
    Missing,
    PublishedFolder,
    composed,
    composed_folder,
    decode_entry,
    decode_file,
    join,
    recognise_file,
    register_published,
    split_per_class,
)
from mmpoison.datasets.published.coco import load_coco_paper
from mmpoison.datasets.published.flickr_pascal import load_flickr_pascal, load_pascal_test
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry
from mmpoison.pairs.labels import (
    Keywords,
    keyword_pattern,
    parse_keywords,
)
from mmpoison.pairs.splits import balanced, hash_order, image_name
from mmpoison.pairs.table import SPLITS, PairDataset

REGIONS_FILE = "region_descriptions.json"
IMAGES_FILE = "image_data.json"
IMAGE_FOLDERS = ("VG_100K", "VG_100K_2")
PAPER_KEYWORDS: Keywords = {
    "sheep": ("sheep", "lamb", "goat"),
    "aeroplane": ("plane", "jet"),
}

Problem = Callable[[str], None]
Match = Literal["chosen", "all"]


class _Region(msgspec.Struct, gc=False):
    phrase: Any  # the builder refuses values that are not text, without losing the image


class _Image(msgspec.Struct, gc=False):
    id: Id
    regions: list[_Region]


class _ImageData(msgspec.Struct, gc=False):
    url: str = ""
    image_id: Id | None = None
    id: Id | None = None  # the name of image_id in the first version
    coco_id: Id | None = None  # for an image that is also in COCO

    @property
    def number(self) -> int | None:
        """The number that identifies the image in regions and files."""
        return self.id if self.image_id is None else self.image_id


def load_visual_genome(
    root: Path | None,
    seed: int = 0,
    *,
    captions_per_image: Count = 5,
    keywords: str | Keywords | None = None,
    match: Match = "chosen",
    test_per_class: Count = 0,
    caption_seed: Count = 0,
    split_seed: Count = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load Visual Genome's regions as pairs of an image and a caption.

    Args:
        root: The folder, or the file of region descriptions.
        seed: Not used: captions and splits have seeds of their own, so that runs with different seeds share them.
        captions_per_image: How many region descriptions are drawn for each image, at most; 0 keeps all.
        keywords: Words of each label, or `sheep=sheep|lamb; aeroplane=plane|jet`, matched as `label_by_keyword` does;
            by default the paper's, for sheep and aeroplane; `none` gives no labels.
        match: Captions that are searched for the keywords: the `chosen` ones, or `all` of the image's captions.
        test_per_class: How many images of each label are `test`; the paper tests on PASCAL, so none by default.
        caption_seed: Draws the captions.
        split_seed: Draws the test images.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        The pairs; `images.categories` has every label that matches. An image that matches several has no label: it
        could be on either side of an attack.

    Raises:
        InputError: If the file is missing or not of this format, or no caption has one of the given keywords.
    """
    source = PublishedFolder(root, options, "visual-genome")
    patterns = _patterns(keywords)
    file = source.file(REGIONS_FILE)
    image_id = _image_ids(source.folder, source.place, source.problem)
    entries: list[ImageEntry] = []
    # views into the file, one per image: building all 5 million regions at once would take gigabytes
    decoder = msgspec.json.Decoder(_Image)
    for index, raw in enumerate(decode_file(file, list[msgspec.Raw])):
        where = f"{file.name} [{index}]"
        image = decode_entry(raw, decoder, where, source.problem)
        if image is None:
            continue
        phrases = [region.phrase for region in image.regions]
        chosen = _draw(phrases, image.id, captions_per_image, caption_seed)
        matching = _matching(chosen if match == "chosen" else phrases, patterns)
        label = matching[0] if len(matching) == 1 else None
        entries.append(ImageEntry(image_id(image.id), chosen, where, label, categories=matching))
    # a small part of the set may lack the paper's classes, but must contain the requested ones
    if keywords not in (None, "none") and not any(entry.categories for entry in entries):
        raise InputError(f"{file}: no caption has any of the keywords of {', '.join(patterns)}")
    if test_per_class:
        split_per_class(entries, test_per_class, split_seed)
    return source.table(entries, file)


def _draw(phrases: list[Any], image: int, most: int, seed: int) -> list[Any]:
    """Draw some of an image's phrases, in file order."""
    if not most or len(phrases) <= most:
        return phrases
    # by position: a phrase may occur twice, and every region has the same chance
    keys = [f"{image}/{index}" for index in range(len(phrases))]
    return [
        phrases[index] for index in sorted(hash_order(keys, seed, "visual-genome/captions")[:most])
    ]


def _patterns(keywords: str | Keywords | None) -> dict[str, re.Pattern[str]]:
    """Return a pattern for the keywords of each label; the paper's by default."""
    wanted: Keywords = PAPER_KEYWORDS
    if isinstance(keywords, str):
        wanted = {} if keywords == "none" else parse_keywords([keywords])
    elif keywords is not None:
        wanted = keywords
    if not (wanted or keywords == "none"):
        raise InputError(f"data option keywords={keywords!r:.60}: give e.g. sheep=sheep|lamb")
    return {label: keyword_pattern(words(given)) for label, given in sorted(wanted.items())}


def _matching(captions: list[Any], patterns: Mapping[str, re.Pattern[str]]) -> tuple[str, ...]:
    """Return all labels matched by an image's captions."""
    texts = [text for text in captions if isinstance(text, str)]
    return tuple(label for label, found in patterns.items() if any(map(found.search, texts)))


def _image_ids(folder: Path, place: Path, problem: Problem) -> Callable[[int], str]:
    """Create a function that returns an image's path: by folders, else by addresses in `image_data.json`."""
    folder_of: dict[str, str] = {}
    for name in IMAGE_FOLDERS:
        if (place / name).is_dir():
            folder_of.update({path.name: name for path in (place / name).iterdir()})
    for number, data in _image_data(folder / IMAGES_FILE, problem):
        # https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg
        in_folder = data.url.rpartition("/")[0].rpartition("/")[2]
        if in_folder in IMAGE_FOLDERS:
            folder_of.setdefault(f"{number}.jpg", in_folder)

    def image_id(number: int) -> str:
        name = f"{number}.jpg"
        return f"{folder_of.get(name, IMAGE_FOLDERS[0])}/{name}"

    return image_id


def coco_numbers(folder: Path) -> dict[str, int]:
    """Read which images are also in COCO: map file names, such as `2319001.jpg`, to COCO's numbers.

    Args:
        folder: Folder of Visual Genome.

    Raises:
        InputError: If `image_data.json`, which contains this, is missing or broken.
    """
    file = folder / IMAGES_FILE
    if not file.is_file():
        raise InputError(f"{file}: missing; it says which images are also in COCO")
    return {
        f"{number}.jpg": data.coco_id
        for number, data in _image_data(file, lambda line: None)
        if data.coco_id is not None
    }


def _image_data(file: Path, problem: Problem) -> Iterator[tuple[int, _ImageData]]:
    """Yield the valid entries of `image_data.json` by number; none if there is no such file."""
    decoder = msgspec.json.Decoder(_ImageData)
    for index, raw in enumerate(decode_file(file, list[msgspec.Raw]) if file.is_file() else ()):
        data = decode_entry(raw, decoder, f"{file.name} [{index}]", problem)
        number = None if data is None else data.number
        if data is not None and number is not None:
            yield number, data


def build_visual_genome(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    images: bool = True,
    keep_archives: bool = False,
) -> Path:
    """Fetch Visual Genome: 15 GB, or 0.13 GB without its photographs.

    Args:
        out: New folder.
        seed: Not used.
        progress: Called with (megabytes, all megabytes).
        images: Whether the photographs are fetched, or the descriptions of their regions alone.
        keep_archives: Leave the zip files in the cache folder.

    Raises:
        InputError: If the disk is too small or a file cannot be had.
    """
    files = [
        replace(
            file, wanted=is_jpeg if name.startswith("images") else name.removesuffix(".zip").__eq__
        )
        for name, file in ARCHIVES["visual-genome"].items()
        if images or not name.startswith("images")
    ]
    return fetch_and_unpack(
        "visual-genome", files, out, keep_archives=keep_archives, progress=progress
    )


register_published(
    "visual-genome", load_visual_genome, recognise_file(REGIONS_FILE), build_visual_genome
)


# -- `visual-genome-paper`: Visual Genome as the paper uses it (section A.1): at most five captions, labels
# by keyword.


CAPTIONS = 5


def load_visual_genome_paper(
    root: Path | None,
    seed: int = 0,
    *,
    match: Match = "chosen",
    caption_seed: Count = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load the paper's Visual Genome, all of it training data.

    Args:
        root: A folder of Visual Genome.
        seed: Not used, so that runs with different seeds share captions and labels.
        match: Captions that are searched for the keywords: the `chosen` ones, or `all` of an image: the paper can be
            read either way. The captions are the same, so that the two readings differ in their labels alone.
        caption_seed: Draws the captions.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        At most five captions per image; images with sheep, lamb or goat are `sheep`, with plane or jet `aeroplane`,
        with both unlabelled, as are all others.

    Raises:
        InputError: If the file is missing or not of this format.
    """
    return load_visual_genome(
        root,
        captions_per_image=CAPTIONS,
        keywords=PAPER_KEYWORDS,
        match=match,
        caption_seed=caption_seed,
        **options,
    )


register_published("visual-genome-paper", load_visual_genome_paper)
# drawn from the five captions, so labels are those of the five
register_published(
    "visual-genome-paper-b", derived(load_visual_genome_paper, balanced, "caption_seed")
)


# -- Visual Genome with another set: as clean pairs for a repair (section 5), or as the training data
# (section 4.2.3).


def _visual_genome(folder: Path, missing: Missing) -> PairDataset:
    return load_visual_genome_paper(folder / "visual-genome", missing=missing)


def _clean_visual_genome(folder: Path, missing: Missing) -> PairDataset:
    pairs = _visual_genome(folder, missing)
    codes = np.full_like(pairs.images.split_codes, SPLITS.index("val"))
    return replace(pairs, images=replace(pairs.images, split_codes=codes))


def load_coco_with_visual_genome(
    root: Path | None,
    seed: int = 0,
    *,
    missing: Missing = "skip",
    shared: Literal["leave-out", "keep"] = "leave-out",
) -> PairDataset:
    """Load the paper's COCO with Visual Genome as the split `val`.

    Args:
        root: Holds `coco/` and `visual-genome/`.
        seed: Not used, as for the two sets.
        missing: What is done with images that are not there, see `ImageOptions`.
        shared: Images of Visual Genome that COCO has too: `leave-out`, by `coco_id` in `image_data.json`, or `keep`.

    Raises:
        InputError: If a folder or file is missing or broken.
    """
    folder = composed_folder(root, "coco-paper-vg")
    coco = load_coco_paper(folder / "coco", missing=missing)
    clean = _clean_visual_genome(folder, missing)
    if shared == "leave-out":
        clean = _without(clean, _numbers_of(coco), coco_numbers(folder / "visual-genome"))
    return join(folder, [coco, clean])


def _numbers_of(coco: PairDataset) -> set[int]:
    """Return the numbers of COCO images: the last digits of their names (`COCO_val2014_000000000042.jpg`)."""
    ends = (re.search(r"(\d+)\.\w+$", str(image_id)) for image_id in coco.images.ids)
    return {int(end[1]) for end in ends if end}


def _without(clean: PairDataset, numbers: set[int], in_coco: Mapping[str, int]) -> PairDataset:
    kept = [in_coco.get(image_name(str(image))) not in numbers for image in clean.images.ids]
    if not any(kept):
        raise InputError(
            "coco-paper-vg: every image of Visual Genome is also in COCO; data option shared=keep keeps them"
        )
    return clean.piece(np.flatnonzero(kept))


register_published(
    "flickr-pascal-vg",
    composed(
        "flickr-pascal-vg",
        lambda folder, missing: load_flickr_pascal(folder, missing=missing),
        _clean_visual_genome,
    ),
)
register_published("coco-paper-vg", load_coco_with_visual_genome)
register_published(
    "vg-pascal",
    composed(
        "vg-pascal",
        _visual_genome,
        lambda folder, missing: load_pascal_test(folder, missing=missing),
    ),
)
