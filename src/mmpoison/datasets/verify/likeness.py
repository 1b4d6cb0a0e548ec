"""Finds images of a data set that are equal or nearly equal, also across its splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpoison.base.phrasing import count_of, count_phrase
from mmpoison.datasets.verify.duplicates import Indices, equal_groups, near_pairs
from mmpoison.datasets.verify.image_scan import ImageScan
from mmpoison.pairs.table import SPLITS, UNLABELLED, BoolArray, PairDataset

EXAMPLES = 100
"""So many pairs of nearly equal images are listed; there may be as many as pairs of images."""

TRAIN, TEST = SPLITS.index("train"), SPLITS.index("test")


@dataclass(frozen=True)
class Likeness:
    """Equal and nearly equal images.

    Attributes:
        groups: Ids of images with equal pixels, a list for each group.
        same_bytes: Images in these groups whose files are equal too.
        near: Pairs and images whose perceptual hashes are near but whose pixels differ, and examples.
        leakage: Test images whose pixels are in train, test pairs that are in train, test images near a train image.
        across: Number of images in groups that lie in several splits, by the splits' names.
        leaked: A test image and a train image with equal pixels, or None.
        disagreeing: Groups of equal images with several labels.
    """

    groups: list[list[str]]
    same_bytes: int
    near: dict[str, Any]
    leakage: dict[str, int]
    across: Mapping[str, int]
    leaked: tuple[str, str] | None
    disagreeing: int

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
        return cls(
            groups=[[str(image_id) for image_id in table.ids[group]] for group in groups],
            same_bytes=same_bytes,
            near=near,
            leakage={
                "same_images": same_images,
                "same_pairs": same_pairs,
                "near_images": near_images,
            },
            across=across,
            leaked=leaked,
            disagreeing=disagreeing,
        )

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
        notes = []
        if self.groups:
            images = sum(map(len, self.groups))
            notes.append(
                f"{images:,} images have the pixels of another, the first: {self.groups[0][0]} = {self.groups[0][1]}"
            )
        for splits, count in sorted(self.across.items()):
            if splits != "train and test":
                notes.append(f"{count_of(count, 'image')} with equal pixels, in {splits}")
        if self.disagreeing:
            notes.append(
                f"images with equal pixels carry different labels ({count_of(self.disagreeing, 'group')} of them)"
            )
        if self.near["pairs"]:
            first, second, distance = self.near["examples"][0]
            notes.append(
                f"{self.near['images']:,} images are nearly the same as another, such as {first} and {second} "
                f"({distance} of 64 bits)"
            )
        if self.leakage["near_images"]:
            notes.append(
                f"{count_phrase(self.leakage['near_images'], 'test image')} nearly the same as a train image"
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "same": {
                "images": sum(map(len, self.groups)),
                "same_bytes": self.same_bytes,
                "groups": self.groups,
                "across_splits": dict(self.across),
                "different_labels": self.disagreeing,
            },
            "near": self.near,
        }


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
