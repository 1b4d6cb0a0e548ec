"""Counts and names images that a filter could not read, which it leaves out of what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError

UNREADABLE_FILE = "unreadable.jsonl"


class AllUnreadable(InputError):
    """No image of a split can be read."""


@dataclass(frozen=True)
class Unreadable:
    """Images that could not be read, of those that a filter needed.

    Attributes:
        images: How many images were needed.
        reasons: What is wrong with each image that could not be read, by its id.
        pairs: Pairs that were to be judged and are left out with these images.
        poisoned: Of these pairs, how many the manifest calls poisoned; None where there is no manifest.
    """

    images: int
    reasons: Mapping[str, str] = field(default_factory=dict)
    pairs: int = 0
    poisoned: int | None = None

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        """Return the count as a phrase for a message.

        >>> str(Unreadable(28, {"a.png": "no such image"}, 5))
        '1 of 28 images cannot be read'
        """
        return f"{len(self.reasons):,} of {count_of(self.images, 'image')} cannot be read"

    def facts(self) -> dict[str, Any]:
        """Return the counts for a log; empty where every image could be read."""
        if not self:
            return {}
        poisoned = {} if self.poisoned is None else {"unreadable_poisoned": self.poisoned}
        return {
            "images": self.images,
            "unreadable_images": len(self.reasons),
            "unreadable_pairs": self.pairs,
            **poisoned,
        }

    def plus(self, other: Unreadable) -> Unreadable:
        """Add the images of another split; counts of pairs stay those of the judged split, of `self`."""
        return Unreadable(
            self.images + other.images,
            {**self.reasons, **other.reasons},
            self.pairs,
            self.poisoned,
        )

    def none_left(self, what: str) -> AllUnreadable:
        """Make the error for a split of which no image can be read.

        Args:
            what: What the images are of.
        """
        image, reason = next(iter(self.reasons.items()))
        return AllUnreadable(
            f"no image of {what} can be read ({self}, the first: {image}: {reason}): "
            "`mmpoison data verify` names them all; repair them, or check the folder of the images"
        )


def absent(images: Iterable[str], known: Unreadable) -> Unreadable:
    """Find images without a file, of splits that were not read.

    Args:
        images: Ids of all images of a set of which there is no file.
        known: What was found already.
    """
    reasons = {image: "no such image" for image in images if image not in known.reasons}
    return Unreadable(len(reasons), reasons)


def short_reasons(root: Path, broken: Mapping[str, str]) -> dict[str, str]:
    """Shorten what is wrong with images to a text without paths: the same wherever the set lies.

    >>> short_reasons(Path("data"), {"a.png": "data/a.png: no such image"})
    {'a.png': 'no such image'}
    """
    return {
        image: reason.removeprefix(f"{root / image}: ") for image, reason in sorted(broken.items())
    }


def write_unreadable(folder: Path, reasons: Mapping[str, str]) -> None:
    """Write `unreadable.jsonl`, an image and its reason a line; nothing where there is none."""
    if not reasons:
        return
    with (folder / UNREADABLE_FILE).open("w", encoding="utf-8") as stream:
        for image, reason in sorted(reasons.items()):
            stream.write(json.dumps({"image": image, "reason": reason}) + "\n")
