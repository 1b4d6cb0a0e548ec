"""The report of a check of a data set, as rows for a reader and as JSON: the same content twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpoison.base.phrasing import count_of


@dataclass(frozen=True)
class Verification:
    """The result of a check.

    Attributes:
        counts: As `PairDataset.counts`.
        fingerprint: sha256 of the table.
        poison: Goals, mode, rate and number of poisoned pairs, or None for a clean set.
        wrong: What is wrong, by kind (`entries`, `images`, `captions`, `leakage`, `manifest`), a line each.
        notes: What a reader should know, though the set can be used.
        format: Name of the format or data set, if known.
        images: What the pass over the image files found, or None where it was left out.
        duplicates: Equal and nearly equal images, or None where images were left out.
        leakage: What is in several splits.
        captions: Counts over the captions.
    """

    counts: dict[str, Any]
    fingerprint: str
    poison: dict[str, Any] | None
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    format: str | None = None
    images: dict[str, Any] | None = None
    duplicates: dict[str, Any] | None = None
    leakage: dict[str, Any] = field(default_factory=dict)
    captions: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """One line for everything that is wrong."""
        return [line for lines in self.wrong.values() for line in lines]

    def facts(self) -> dict[str, str]:
        """List rows of a table for a reader."""
        counts = self.counts
        rows: dict[str, str] = {}
        if self.format is not None:
            rows["format"] = self.format
        rows["images"] = f"{counts['images']:,}"
        rows["pairs"] = f"{counts['pairs']:,}"
        for split, numbers in counts["splits"].items():
            rows[split] = (
                f"{count_of(numbers['images'], 'image')}, {count_of(numbers['pairs'], 'pair')}"
            )
        rows["classes"] = _classes(counts["classes"])
        rows["captions"] = _captions(self.captions)
        if self.images is not None:
            rows["files"] = _files(self.images)
            rows["broken images"] = _list(self.images["broken"])
        if self.duplicates is not None:
            rows["same images"] = _same(self.duplicates["same"])
            rows["near images"] = _near(self.duplicates["near"])
        rows["train and test"] = _leakage(self.leakage)
        rows["poisoned"] = (
            "no manifest"
            if self.poison is None
            else f"{count_of(self.poison['pairs'], 'pair')} ({self.poison['rate']:.2%}), "
            f"{', '.join(self.poison['goals'])}, mode {self.poison['mode']}"
        )
        rows["fingerprint"] = self.fingerprint
        return {key: value for key, value in rows.items() if value}

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "ok": not self.problems,
            "format": self.format,
            "counts": self.counts,
            "fingerprint": self.fingerprint,
            "poison": self.poison,
            "problems": self.problems,
            "wrong": {kind: list(lines) for kind, lines in self.wrong.items()},
            "notes": list(self.notes),
            "images": self.images,
            "duplicates": self.duplicates,
            "leakage": self.leakage,
            "captions": self.captions,
        }


def _classes(classes: Mapping[str, int]) -> str:
    if not classes:
        return "none"
    fewest, most = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    if classes[fewest] == classes[most]:
        return f"{len(classes)}, {count_of(classes[most], 'image')} each"
    return f"{len(classes)}, from {count_of(classes[fewest], 'image')} ({fewest}) to {classes[most]:,} ({most})"


def _captions(captions: Mapping[str, Any]) -> str:
    if not captions:
        return ""
    low, middle, high = captions["words"]
    return f"{captions['distinct']:,} different, {low} to {high} words (median {middle})"


def _files(images: Mapping[str, Any]) -> str:
    formats = ", ".join(f"{count:,} {name}" for name, count in images["formats"].items())
    if not formats:
        return "none can be read"
    small, large = images["smallest"], images["largest"]
    return (
        f"{formats}, {small:,} pixels a side"
        if small == large
        else (f"{formats}, sides of {small:,} to {large:,} pixels")
    )


def _list(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items() if count) or "none"


def _same(same: Mapping[str, Any]) -> str:
    if not same["groups"]:
        return "none"
    return (
        f"{same['images']:,} with the pixels of another ({same['same_bytes']:,} with its bytes too), "
        f"groups: {len(same['groups']):,}"
    )


def _near(near: Mapping[str, Any]) -> str:
    if near["left_out"]:
        return f"not looked for: {near['left_out']}"
    if not near["pairs"]:
        return f"none within {near['distance']} of 64 bits"
    return (
        f"{near['images']:,} within {near['distance']} of 64 bits of another that is not the same, "
        f"pairs: {near['pairs']:,}"
    )


def _leakage(leakage: Mapping[str, Any]) -> str:
    parts = [
        f"{leakage[name]:,} {words}"
        for name, words in (
            ("same_images", "test images with the pixels of a train image"),
            ("same_pairs", "test pairs with caption and image of a train pair"),
            ("near_images", "test images near a train image"),
            ("poisoned_images", "test images with poisoned train captions, by the manifest"),
            ("same_captions", "texts in both"),
        )
        if leakage.get(name)
    ]
    return ", ".join(parts) or "nothing in both"
