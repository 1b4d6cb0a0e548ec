"""Looks at every image of a set: whether it can be read, and which are alike."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mmpoison.base.extras import is_installed
from mmpoison.base.phrasing import count_of, count_phrase
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, ImageFault, orientation, picture
from mmpoison.pairs.table import SPLITS, UNLABELLED, BoolArray, PairDataset

# -- Images that are the same, or nearly: equal hashes, and perceptual hashes a few bits apart.


Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

BITS = 64
FARTHEST = 10
"""The largest distance that is searched; beyond it the bands are so narrow that it is a comparison of all with all."""

AT_ONCE = 1 << 20
"""So many candidates are compared at a time, which takes some 60 MB."""


def equal_groups(hashes: Hashes) -> list[Indices]:
    """Group positions with equal hashes, two or more each, by their first position.

    Args:
        hashes: Shape `(n,)`.

    >>> [group.tolist() for group in equal_groups(np.array([7, 1, 7, 2, 1, 7], dtype=np.uint64))]
    [[0, 2, 5], [1, 4]]
    """
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    starts, sizes = _runs(hashes[order])
    several = sizes > 1
    groups = [
        order[start : start + size]
        for start, size in zip(starts[several].tolist(), sizes[several].tolist(), strict=True)
    ]
    return sorted(groups, key=lambda group: int(group[0]))


def near_pairs(
    hashes: Hashes, distance: int
) -> Iterator[tuple[Indices, Indices, npt.NDArray[np.uint8]]]:
    """Find all pairs of 64-bit hashes that differ in at most a given number of bits, and no others.

    Of `distance + 2` bands of bits, hashes that are near differ in at most `distance`, so they agree in two bands at
    least: only those that agree in some two bands are compared.

    Args:
        hashes: Distinct hashes, shape `(n,)`.
        distance: Bits that may differ, from 0 to 10.

    Yields:
        Pieces with the positions of both of each pair (first < second) and their distance; each pair comes once.

    Raises:
        InputError: If the distance is out of range.
    """
    if not 0 <= distance <= FARTHEST:
        raise InputError(
            f"a distance of {distance} bits: from 0 to {FARTHEST} of {BITS} can be searched"
        )
    masks = _bands(distance + 2)
    for first, second in combinations(range(len(masks)), 2):
        both = hashes & (masks[first] | masks[second])
        order = np.argsort(both, kind="stable").astype(np.int64)
        for left, right in _agreeing(both[order]):
            i, j = order[left], order[right]
            differing = hashes[i] ^ hashes[j]
            apart = _ones(differing)
            near = apart <= distance
            # in the first two bands that agree, not once more in others
            for band in range(second):
                if band != first:
                    near &= (differing & masks[band]) != 0
            if near.any():
                i, j = i[near], j[near]
                yield np.minimum(i, j), np.maximum(i, j), apart[near]


def _bands(count: int) -> list[np.uint64]:
    bounds = [round(BITS * k / count) for k in range(count + 1)]
    return [np.uint64(((1 << (stop - start)) - 1) << start) for start, stop in pairwise(bounds)]


def _agreeing(values: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Yield all pairs of positions with equal values in a sorted array, in pieces."""
    starts, sizes = _runs(values)
    # how many later members of its group each position has
    position = np.arange(len(values), dtype=np.int64)
    later = np.repeat(starts + sizes, sizes) - position - 1
    partners = position[later > 0]
    later = later[later > 0]
    cumulated = np.cumsum(later)
    start = 0
    while start < len(partners):
        before = cumulated[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(cumulated, before + AT_ONCE, side="right")))
        counts = later[start:stop]
        left = np.repeat(partners[start:stop], counts)
        within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield left, left + within + 1
        start = stop


def _runs(values: Hashes) -> tuple[Indices, Indices]:
    """Start and length of each run of equal values in a sorted array."""
    starts = np.concatenate(([0], np.flatnonzero(np.diff(values)) + 1))[: len(values)]
    return starts, np.diff(np.concatenate((starts, [len(values)])))


def _ones(values: Hashes) -> npt.NDArray[np.uint8]:
    """Count the bits that are set."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        ones: npt.NDArray[np.uint8] = np.bitwise_count(values)
    else:
        ones = np.unpackbits(values[:, None].view(np.uint8), axis=1).sum(axis=1, dtype=np.uint8)
    return ones


# -- One pass over the image files of a data set: which are broken, what they are, and a few bytes to
# compare each by.


SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "GIF": {".gif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
}
_ALL_SUFFIXES = frozenset().union(*SUFFIXES.values())

HASHED_AT_ONCE = 1 << 20
"""Pixels that are put into bytes at a time."""


@dataclass
class ImageScan:
    """The result of one pass over `n` images; 8 bytes a hash, so 24 bytes an image.

    Attributes:
        readable: Which images can be decoded whole, shape `(n,)`.
        file_hash: Of the bytes of the file, shape `(n,)`.
        pixel_hash: Of size and RGB pixels, shape `(n,)`; equal also where one file was saved again without loss.
        perceptual: Perceptual hash (pHash, 64 bits), shape `(n,)`, or None where imagehash is not installed.
        faults: What is wrong with each broken image, by its position.
        wrong_suffix: Position and true format of images whose name says another format.
        animated: Positions of images with several frames.
        rotated: Positions of images with an EXIF orientation.
        formats: Number of images of each format.
        smallest: Shortest side of the smallest image in pixels, 0 without images.
        largest: Longest side of the largest image in pixels.
    """

    readable: npt.NDArray[np.bool_]
    file_hash: Hashes
    pixel_hash: Hashes
    perceptual: Hashes | None
    faults: dict[int, BrokenImage] = field(default_factory=dict)
    wrong_suffix: dict[int, str] = field(default_factory=dict)
    animated: list[int] = field(default_factory=list)
    rotated: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    smallest: int = 0
    largest: int = 0

    def of_fault(self, *faults: ImageFault) -> list[int]:
        """Return the sorted positions of the images with one of some faults."""
        return sorted(index for index, error in self.faults.items() if error.fault in faults)


def can_hash_perceptually() -> bool:
    """Return whether the library of perceptual hashes (extra `data`) is installed."""
    return is_installed("imagehash")


def scan_images(
    root: Path,
    ids: Sequence[str],
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageScan:
    """Decode every image whole, once.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths, `n` of them.
        workers: Threads; the number of cores by default.
        progress: Called with (done, total).
    """
    count = len(ids)
    hash_perceptually = can_hash_perceptually()
    scan = ImageScan(
        readable=np.zeros(count, dtype=bool),
        file_hash=np.zeros(count, dtype=np.uint64),
        pixel_hash=np.zeros(count, dtype=np.uint64),
        perceptual=np.zeros(count, dtype=np.uint64) if hash_perceptually else None,
    )
    threads = workers or os.cpu_count() or 1

    def scan_one(index: int) -> _ImageFacts | BrokenImage:
        try:
            return _examine(root, ids[index], hash_perceptually)
        except BrokenImage as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        # some at a time: a future for each of a million images would hold more than their hashes
        for start in range(0, count, 64 * threads):
            some = range(start, min(start + 64 * threads, count))
            for index, found in zip(some, pool.map(scan_one, some), strict=True):
                _note(scan, index, ids[index], found)
            if progress is not None:
                progress(some.stop, count)
    return scan


@dataclass(frozen=True)
class _ImageFacts:
    format: str
    width: int
    height: int
    file_hash: int
    pixel_hash: int
    perceptual: int
    animated: bool
    rotated: bool


def _examine(root: Path, image_id: str, hash_perceptually: bool) -> _ImageFacts:
    with picture(root, image_id) as (stream, image):
        image.load()
        # the same picture, not a copy, since it may be large
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        width, height = rgb.size
        if not width or not height:
            raise ValueError("an empty image")
        pixels = hashlib.sha256(f"{width} {height} ".encode())
        rows = max(1, HASHED_AT_ONCE // width)
        for top in range(0, height, rows):
            pixels.update(rgb.crop((0, top, width, min(top + rows, height))).tobytes())
        perceptual = _perceptual(rgb) if hash_perceptually else 0
        rotated = orientation(image) not in (None, 1)
        animated = bool(getattr(image, "is_animated", False))
        # last, since it moves the place in the stream
        stream.seek(0)
        content = hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").digest()
        return _ImageFacts(
            str(image.format),
            width,
            height,
            _first_bytes(content),
            _first_bytes(pixels.digest()),
            perceptual,
            animated,
            rotated,
        )


def _first_bytes(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


def _perceptual(rgb: Any) -> int:
    import imagehash

    bits = imagehash.phash(rgb).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _note(scan: ImageScan, index: int, image_id: str, found: _ImageFacts | BrokenImage) -> None:
    if isinstance(found, InputError):
        scan.faults[index] = found
        return
    scan.readable[index] = True
    scan.file_hash[index] = found.file_hash
    scan.pixel_hash[index] = found.pixel_hash
    if scan.perceptual is not None:
        scan.perceptual[index] = found.perceptual
    scan.formats[found.format] += 1
    suffix = PurePosixPath(image_id).suffix.lower()
    if suffix in _ALL_SUFFIXES and suffix not in SUFFIXES.get(found.format, set()):
        scan.wrong_suffix[index] = found.format
    if found.animated:
        scan.animated.append(index)
    if found.rotated:
        scan.rotated.append(index)
    shortest = min(found.width, found.height)
    scan.smallest = min(scan.smallest, shortest) if scan.smallest else shortest
    scan.largest = max(scan.largest, found.width, found.height)


# -- Finds images of a data set that are equal or nearly equal, also across its splits.


EXAMPLES = 100
"""So many pairs of nearly equal images are listed; there may be as many as pairs of images."""

TRAIN, TEST = SPLITS.index("train"), SPLITS.index("test")


@dataclass(frozen=True)
class Likeness:
    """Equal and nearly equal images.

    Attributes:
        duplicates: `same`: images with equal pixels, the groups of their ids, how many have equal files too, how many
            lie in which several splits, and groups with several labels; `near`: pairs and images whose perceptual
            hashes are near but whose pixels differ, and examples.
        leakage: Test images whose pixels are in train, test pairs that are in train, test images near a train image.
        leaked: A test image and a train image with equal pixels, or None.
    """

    duplicates: dict[str, Any]
    leakage: dict[str, int]
    leaked: tuple[str, str] | None

    @classmethod
    def of(cls, pairs: PairDataset, scan: ImageScan, distance: int) -> Likeness:
        """Compare all readable images of a set.

        Args:
            pairs: The set.
            scan: The pass over its images.
            distance: Bits of 64 in which near images may differ.
        """
        table = pairs.images
        readable = np.flatnonzero(scan.readable)
        groups = [readable[group] for group in equal_groups(scan.pixel_hash[readable])]
        across: dict[str, int] = {}
        leaked = None
        same_images = same_pairs = same_bytes = disagreeing = 0
        train_pairs, test_pairs = pairs.in_split("train"), pairs.in_split("test")
        for group in groups:
            splits = table.split_codes[group]
            codes = np.unique(splits)
            if len(codes) > 1:
                name = " and ".join(SPLITS[code] for code in codes)
                across[name] = across.get(name, 0) + len(group)
            in_train, in_test = group[splits == TRAIN], group[splits == TEST]
            if len(in_train) and len(in_test):
                leaked = leaked or (str(table.ids[in_test[0]]), str(table.ids[in_train[0]]))
                same_images += len(in_test)
                known = set(_captions(pairs, in_train, train_pairs))
                same_pairs += sum(c in known for c in _captions(pairs, in_test, test_pairs))
            labels = table.class_codes[group]
            disagreeing += len(np.unique(labels[labels != UNLABELLED])) > 1
            same_bytes += sum(map(len, equal_groups(scan.file_hash[group])))
        near, near_images = _near(pairs, scan, readable, distance)
        same = {
            "images": sum(map(len, groups)),
            "same_bytes": same_bytes,
            "groups": [[str(image_id) for image_id in table.ids[group]] for group in groups],
            "across_splits": across,
            "different_labels": disagreeing,
        }
        counts = {"same_images": same_images, "same_pairs": same_pairs, "near_images": near_images}
        return cls({"same": same, "near": near}, counts, leaked)

    def problems(self) -> list[str]:
        """List what is wrong: a test image in the training data measures memory."""
        if self.leaked is None:
            return []
        return [
            f"{count_phrase(self.leakage['same_images'], 'test image')} in train too, pixel for pixel, the first: "
            f"{self.leaked[0]} = {self.leaked[1]}"
        ]

    def notes(self) -> list[str]:
        """List what a reader should know."""
        same, near, notes = self.duplicates["same"], self.duplicates["near"], []
        if same["groups"]:
            first, other = same["groups"][0][:2]
            notes.append(
                f"{same['images']:,} images have the pixels of another, the first: {first} = {other}"
            )
        for splits, count in sorted(same["across_splits"].items()):
            if splits != "train and test":
                notes.append(f"{count_of(count, 'image')} with equal pixels, in {splits}")
        if count := same["different_labels"]:
            notes.append(
                f"images with equal pixels carry different labels ({count_of(count, 'group')} of them)"
            )
        if near["pairs"]:
            first, other, distance = near["examples"][0]
            notes.append(
                f"{near['images']:,} images are nearly the same as another, such as {first} and {other} "
                f"({distance} of 64 bits)"
            )
        if count := self.leakage["near_images"]:
            notes.append(f"{count_phrase(count, 'test image')} nearly the same as a train image")
        return notes


def _captions(pairs: PairDataset, images: Indices, wanted: BoolArray) -> list[str]:
    """Mark the captions of some images, a mask of shape `(N,)`."""
    # pairs stand in the order of their images
    starts = np.searchsorted(pairs.image, images, side="left")
    stops = np.searchsorted(pairs.image, images, side="right")
    return [
        str(pairs.captions[row])
        for start, stop in zip(starts, stops, strict=True)
        for row in range(start, stop)
        if wanted[row]
    ]


def _near(
    pairs: PairDataset, scan: ImageScan, readable: Indices, distance: int
) -> tuple[dict[str, Any], int]:
    """Return the images near another one, and the number of test images near a train image."""
    near: dict[str, Any] = {
        "distance": distance,
        "left_out": None,
        "pairs": 0,
        "images": 0,
        "examples": [],
    }
    if scan.perceptual is None:
        near["left_out"] = "imagehash is not installed (pip install 'mmpoison[data]')"
        return near, 0
    table = pairs.images
    splits = table.split_codes[readable]
    # images with equal pixels count as one picture, and pictures with equal hashes as one hash
    _, first, picture = np.unique(scan.pixel_hash[readable], return_index=True, return_inverse=True)
    hashes, hash_of = np.unique(scan.perceptual[readable[first]], return_inverse=True)
    in_train = np.zeros(len(first), dtype=np.int64)
    in_train[picture[splits == TRAIN]] = 1
    pictures_of = np.bincount(hash_of, minlength=len(hashes))
    trains_of = np.bincount(hash_of, weights=in_train, minlength=len(hashes)).astype(np.int64)
    by_hash = readable[first][np.argsort(hash_of, kind="stable")]
    start_of = np.cumsum(pictures_of) - pictures_of

    has_near = pictures_of > 1
    train_near = np.zeros(len(hashes), dtype=bool)
    near["pairs"] = int((pictures_of * (pictures_of - 1) // 2).sum())
    for group in np.flatnonzero(has_near)[:EXAMPLES]:
        one, other = by_hash[start_of[group] : start_of[group] + 2]
        near["examples"].append([str(table.ids[one]), str(table.ids[other]), 0])
    for i, j, apart in near_pairs(hashes, distance):
        near["pairs"] += int((pictures_of[i] * pictures_of[j]).sum())
        has_near[i] = has_near[j] = True
        train_near[i[trains_of[j] > 0]] = True
        train_near[j[trains_of[i] > 0]] = True
        for k in range(min(len(i), EXAMPLES - len(near["examples"]))):
            one, other = by_hash[start_of[i[k]]], by_hash[start_of[j[k]]]
            near["examples"].append([str(table.ids[one]), str(table.ids[other]), int(apart[k])])
    near["images"] = int(has_near[hash_of][picture].sum())
    # of those with its own hash, a picture does not count itself
    leaks = train_near[hash_of] | (trains_of[hash_of] - in_train > 0)
    return near, int((leaks[picture] & (splits == TEST)).sum())
