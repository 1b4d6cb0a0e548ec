"""Addresses and checksums of the data sets that anyone may fetch, and how each is built.

Sizes and checksums are those that others published after fetching the same addresses; a comment says where each is
from. A file without a published checksum is trusted at its first download and must be the same at every later one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urljoin

from mmpoison.base.files import atomic_folder, refuse_occupied
from mmpoison.datasets.catalogue import Progress
from mmpoison.datasets.fetch.dataset_builds import (
    DOWNLOADS,
    Download,
    PublicFile,
    fetch_and_unpack,
    open_cache,
)
from mmpoison.datasets.fetch.transfer import read_page
from mmpoison.datasets.options import one_of
from mmpoison.datasets.published.coco import PARTS, YEARS
from mmpoison.datasets.published.pascal_sentences import PAGE_FILES, load_pascal_sentences
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.pairs.splits import FrozenSplit, image_name, shipped_split
from mmpoison.pairs.table import PairDataset


def _is_jpeg(name: str) -> bool:
    return name.endswith(".jpg")


# -- COCO ------------------------------------------------------------------------------------------

# http, as on https://cocodataset.org/#download: the name of the server does not match its certificate. The mirror is
# the same bucket under the storage service's own name. What is fetched is checked by sha256 either way.
_COCO = ("http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org")

# sizes and sha256: github.com/tensorflow/datasets, tensorflow_datasets/url_checksums/coco.txt
_COCO_FILES = {
    "zips/train2014.zip": (
        13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    ),
    "zips/val2014.zip": (
        6_645_013_297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    ),
    "annotations/annotations_trainval2014.zip": (
        252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    ),
    "zips/train2017.zip": (
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "zips/val2017.zip": (
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "annotations/annotations_trainval2017.zip": (
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
}


def coco_files(year: int, parts: Sequence[str], images: bool) -> list[PublicFile]:
    """List the downloads for a part of COCO, the annotations first because they are small."""
    names = [f"annotations/annotations_trainval{year}.zip"]
    if images:
        names += [f"zips/{part}{year}.zip" for part in parts]
    captions = {
        f"annotations/{kind}_{part}{year}.json"
        for kind in ("captions", "instances")
        for part in parts
    }
    return [
        PublicFile(
            name=PurePosixPath(name).name,
            urls=tuple(f"{server}/{name}" for server in _COCO),
            about=_COCO_FILES[name][0],
            size=_COCO_FILES[name][0],
            sha256=_COCO_FILES[name][1],
            wanted=captions.__contains__ if name.startswith("annotations/") else _is_jpeg,
        )
        for name in names
    ]


def build_coco(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    year: int | str = 2014,
    parts: str = "both",
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
        InputError: If an option is wrong, the disk is too small or a file cannot be had.
    """
    one_of("year", year, (*YEARS, *map(str, YEARS)))
    one_of("parts", parts, (*PARTS, "both"))
    chosen = PARTS if parts == "both" else (parts,)
    files = coco_files(int(year), chosen, images)
    return fetch_and_unpack("coco", files, out, keep_archives=keep_archives, progress=progress)


# -- Visual Genome ---------------------------------------------------------------------------------

_VG = "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset"
_VG_IMAGES = "https://cs.stanford.edu/people/rak248/VG_100K_2"

# sizes and sha256: github.com/huggingface/datasets, datasets/visual_genome/dataset_infos.json. It lists the first
# version of the region descriptions; no checksum of the current one, which is fetched here, is published.
VISUAL_GENOME_FILES = (
    PublicFile(
        name="region_descriptions.json.zip",
        urls=(f"{_VG}/region_descriptions.json.zip",),
        about=130_000_000,
        wanted="region_descriptions.json".__eq__,
    ),
    PublicFile(
        name="image_data.json.zip",
        urls=(
            f"{_VG}/image_data.json.zip",
            "https://visualgenome.org/static/data/dataset/image_data.json.zip",
        ),
        about=1_780_854,
        size=1_780_854,
        sha256="b87a94918cb2ff4d952cf1dfeca0b9cf6cd6fd204c2f8704645653be1163681a",
        wanted="image_data.json".__eq__,
    ),
)
VISUAL_GENOME_IMAGES = (
    PublicFile(
        name="images.zip",
        urls=(f"{_VG_IMAGES}/images.zip",),
        about=9_731_705_982,
        size=9_731_705_982,
        sha256="51c682d2721f880150720bb416e0346a4c787e4c55d7f80dfd1bd3f73ba81646",
        wanted=_is_jpeg,
    ),
    PublicFile(
        name="images2.zip",
        urls=(f"{_VG_IMAGES}/images2.zip",),
        about=5_471_658_058,
        size=5_471_658_058,
        sha256="99da1a0ddf87011319ff3b05cf9176ffee2731cc3c52951162d9ef0d68e3cfb5",
        wanted=_is_jpeg,
    ),
)


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
    files = VISUAL_GENOME_FILES + (VISUAL_GENOME_IMAGES if images else ())
    return fetch_and_unpack(
        "visual-genome", files, out, keep_archives=keep_archives, progress=progress
    )


# -- PASCAL Sentences ------------------------------------------------------------------------------

PASCAL_PAGE = "http://vision.cs.uiuc.edu/pascal-sentences/"

PASCAL_CAPTIONS = "4a71f29afa2df6e4c32702a589cb3454d926d5363efff1e8f5bc3659148c5e1a"
"""sha256 of the captions of all 1,000 images (`captions_digest`) in a copy that was made when the page was up."""

MOST_PHOTO = 8 << 20


def build_pascal_sentences(
    out: Path, seed: int = 0, progress: Progress | None = None, *, page: str = PASCAL_PAGE
) -> Path:
    """Fetch PASCAL Sentences from the page of its authors, which is not always up: 1,000 photographs, 80 MB.

    No checksum is published. Names, classes and captions are compared with those that the package knows; the
    photographs are trusted at their first download.

    Args:
        out: New folder: the page and its images by class.
        seed: Not used.
        progress: Called with (images, all images).
        page: Address of the page, or of a copy of it.

    Raises:
        InputError: If the page is not reached or is another one, or a photograph cannot be had.
    """
    refuse_occupied(out)
    text = read_page(page)
    published = shipped_split("pascal-sentences")
    with open_cache("pascal-sentences") as cache, atomic_folder(out) as folder:
        (folder / PAGE_FILES[0]).write_text(text, encoding="utf-8")
        for label in set(published.labels.values()):
            # the folders by which the page is recognised
            (folder / str(label)).mkdir()
        pairs = load_pascal_sentences(folder, missing="keep")
        _compare_pascal(pairs, published, page)
        names = [str(image_id) for image_id in pairs.images.ids]
        for done, name in enumerate(names, start=1):
            (cache.folder / name).parent.mkdir(exist_ok=True)
            photo = PublicFile(name, (urljoin(page, quote(name)),), about=0)
            got = cache.fetch(photo, most=MOST_PHOTO)
            with got.path.open("rb") as stream:
                jpeg = stream.read(2) == b"\xff\xd8"
            if not jpeg:
                cache.distrust(photo)
                raise InputError(f"{photo.urls[0]}: what comes from there is no photograph")
            if progress is not None:
                progress(done, len(names))
        cache.save()
        # only now, so that an interrupted build can resume
        for name in names:
            shutil.move(cache.folder / name, folder / name)
        cache.write(folder, names)
    return out


def captions_digest(pairs: PairDataset) -> str:
    """sha256 over the file name and the sorted captions of every image; white space does not count."""
    digest = hashlib.sha256()
    lines = [
        [image_name(line["image"]), sorted(" ".join(text.split()) for text in line["captions"])]
        for line in pairs.lines()
    ]
    for line in sorted(lines):
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def _compare_pascal(pairs: PairDataset, published: FrozenSplit, page: str) -> None:
    own = FrozenSplit.of(pairs, "pascal-sentences", "name")
    if own.labels != published.labels:
        both = [name for name, label in own.labels.items() if published.labels.get(name) == label]
        raise InputError(
            f"{page}: shows {len(own.labels):,} images, of which {len(both):,} are those of PASCAL Sentences with "
            f"their class; all {len(published.labels):,} were expected: this is another page"
        )
    if captions_digest(pairs) != PASCAL_CAPTIONS:
        warnings.warn(
            f"{page}: its captions are not quite those of the copy that the package knows",
            MmpoisonWarning,
            stacklevel=2,
        )


for _download in (
    Download("coco", build_coco, "images and annotations of 2014 or 2017; 1 to 20 GB"),
    Download("visual-genome", build_visual_genome, "images and region descriptions; 15 GB"),
    Download("pascal-sentences", build_pascal_sentences, "the authors' page and its images"),
):
    DOWNLOADS.register(_download.name)(_download)
