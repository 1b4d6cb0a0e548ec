"""Check a data set: its entries, whether its images decode, its captions, and whether a manifest is right."""

from __future__ import annotations

import html
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.phrasing import count_of, count_phrase
from mmpoison.base.progress import Progress
from mmpoison.datasets.catalogue import DATASETS, load_dataset, recognise
from mmpoison.datasets.verify.manifest_check import (
    manifest_problems,
    new_image_problems,
    poisoned_gallery,
)
from mmpoison.errors import MmpoisonWarning
from mmpoison.images.decode import BrokenImage, decode_images
from mmpoison.images.sources import changed_files, changed_line, file_states
from mmpoison.pairs.folder import ManifestMisfit
from mmpoison.pairs.table import SPLITS, PairDataset

LEAKAGE = {
    "poisoned_images": "test images with poisoned train captions, by the manifest",
    "same_captions": "texts in both",
}
"""What train and test share, by its key in the report."""

# -- The report of a check of a data set, as rows for a reader and as JSON: the same content twice.


@dataclass(frozen=True)
class Verification:
    """The result of a check.

    Attributes:
        counts: As `PairDataset.counts`.
        fingerprint: sha256 of the table.
        poison: Goals, mode, rate and number of poisoned pairs, or None for a clean set.
        wrong: What is wrong, by kind (`entries`, `images`, `captions`, `manifest`), a line each.
        notes: What a reader should know, though the set can be used.
        format: Name of the format or data set, if known.
        images: How many images decode and how many do not, or None where the files were not read.
        leakage: What is in train and in test.
        captions: Counts over the captions.
    """

    counts: dict[str, Any]
    fingerprint: str
    poison: dict[str, Any] | None
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    format: str | None = None
    images: dict[str, Any] | None = None
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
            rows["broken images"] = _list(self.images["broken"])
        shared = {words: self.leakage.get(name, 0) for name, words in LEAKAGE.items()}
        rows["train and test"] = _list(shared, "nothing in both")
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
        lines = {kind: list(lines) for kind, lines in self.wrong.items()}
        own = {**vars(self), "wrong": lines, "notes": list(self.notes)}
        return {"ok": not self.problems, "problems": self.problems, **own}


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


def _list(numbers: Mapping[str, int], nothing: str = "none") -> str:
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items() if count) or nothing


# -- Counts problems of captions in one pass over the texts.


CONTEXT = 77
"""Tokens that CLIP's text encoder reads, the start and the end among them."""

# CLIP's tokenizer first cuts a text into these pieces; each is at least one token
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)
_HTML = re.compile(r"</?[a-zA-Z][^<>]*>|&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z][a-zA-Z0-9]*);")
# control characters but tab and ends of lines, and what hides or reverses text
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")


def check_captions(pairs: PairDataset) -> dict[str, Any]:
    """Look at every caption once.

    Returns:
        Counts: `captions`, all of them; `distinct`, different texts; `words`, the fewest, median and most words of a
        caption; those of `CAPTION_KINDS`; `repeated`, captions that their image has already; `images_without`, images
        that no caption is with; `in_train_and_test`, different texts that are in both splits, on whatever image. And
        `examples`: the image of the first caption of each kind that was found.
    """
    rows: dict[str, list[int]] = {}
    for row, caption in enumerate(pairs.captions):
        rows.setdefault(caption, []).append(row)
    counts: dict[str, int] = {}
    firsts: dict[str, int] = {}
    for kind, test in CAPTION_KINDS.items():
        hits = [found for text, found in rows.items() if test(text)]
        counts[kind] = sum(map(len, hits))
        if hits:
            firsts[kind] = min(found[0] for found in hits)
    in_train, in_test = pairs.in_split("train"), pairs.in_split("test")
    both = repeated = 0
    for found in rows.values():
        if len(found) > 1:
            both += bool(in_train[found].any() and in_test[found].any())
            again = np.delete(found, np.unique(pairs.image[found], return_index=True)[1])
            repeated += len(again)
            if len(again):
                firsts["repeated"] = min(int(again[0]), firsts.get("repeated", len(pairs)))
    without = np.setdiff1d(np.arange(len(pairs.images)), pairs.used_images())
    examples = {kind: str(pairs.images.ids[pairs.image[row]]) for kind, row in firsts.items()}
    if len(without):
        examples["images_without"] = str(pairs.images.ids[without[0]])
    lengths = [len(text.split()) for text in rows] or [0]
    words = np.repeat(lengths, [len(found) for found in rows.values()] or [1])
    return {
        "captions": len(pairs),
        "distinct": len(rows),
        "words": [min(lengths), int(np.median(words)), max(lengths)],
        **counts,
        "repeated": repeated,
        "images_without": len(without),
        "in_train_and_test": both,
        "examples": examples,
    }


def says_something(caption: str) -> bool:
    """Return whether a caption has a letter, a digit or a symbol, and not only marks and spaces.

    >>> says_something("."), says_something(" "), says_something("a sheep"), says_something("\N{SHEEP}")
    (False, False, True, True)
    """
    return any(
        character.isalnum() or unicodedata.category(character)[0] == "S" for character in caption
    )


def is_too_long(caption: str) -> bool:
    """Return whether CLIP's tokenizer certainly truncates a caption.

    >>> is_too_long("a sheep " * 37), is_too_long("a sheep " * 38)
    (False, True)
    """
    if len(caption) <= CONTEXT - 2:
        return False
    # what CLIP's tokenizer takes out beforehand does not count
    text = _CONTROL.sub("", _ESCAPE.sub("", html.unescape(html.unescape(caption))))
    return sum(1 for _ in _PIECES.finditer(text)) > CONTEXT - 2


CAPTION_KINDS: Mapping[str, Callable[[str], object]] = {
    "empty": lambda text: not says_something(text),
    "too_long": is_too_long,
    "html": _HTML.search,
    "control": _CONTROL.search,
}
"""Captions that say nothing, that CLIP truncates for sure, with HTML, and with control characters or hidden text."""

IMBALANCE = 10
"""A class with this many times the images of another is noted."""

IMAGES_AT_ONCE = 256
"""So many images are given to the decoding threads at a time: a task for each of a million would fill the memory."""


def load_to_verify(
    data: str | Path,
    *,
    format: str | None = None,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[PairDataset, str, list[str]]:
    """Load a data set by name or path so that everything that is wrong with it can be named.

    Args:
        data: Registered name, or a folder or file.
        format: Format of a path, where it cannot be recognised.
        root: Folder of the data for a name; of the images for a path.
        options: Options of the data set.

    Returns:
        The pairs, with all broken entries in `problems`; the name of their format; and what is wrong with a manifest
        that was not applied because it does not match.

    Raises:
        InputError: If it cannot be loaded at all.
    """
    given = dict(options or {})
    with warnings.catch_warnings():
        # what was left out is what the check reports
        warnings.simplefilter("ignore", MmpoisonWarning)
        name, kind = str(data), format
        if format is not None or (name not in DATASETS and Path(name).exists()):
            source = recognise(Path(name)) if format is None else DATASETS[format]
            kind = source.name
            if "strict" in source.options:
                given.setdefault("strict", False)
        try:
            return load_dataset(name, root, options=given, format=kind), kind or name, []
        except ManifestMisfit as error:
            return error.pairs, kind or name, [str(error)]


def verify_pairs(
    pairs: PairDataset,
    *,
    clean: PairDataset | None = None,
    images: bool = True,
    format: str | None = None,
    manifest_faults: list[str] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Read every image and every caption once, and check a poisoned set's manifest against its pairs.

    Args:
        pairs: The set, loaded.
        clean: The set that a poisoned one was made from; its fingerprint is compared, and the manifest's poison is
            taken out of the poisoned set and must leave it.
        images: Read the image files; without, only the table is checked.
        format: Name of the format, to be shown.
        manifest_faults: What is wrong with a manifest that could not be applied.
        progress: Called with (done, total).
    """
    wrong: dict[str, list[str]] = {
        "entries": list(pairs.problems),
        "images": [],
        "captions": [],
        "manifest": list(manifest_faults or ()),
    }
    notes: list[str] = []
    found_images = None
    captions = check_captions(pairs)
    leakage = {"same_captions": captions["in_train_and_test"]}
    if images:
        ids = [str(image_id) for image_id in pairs.images.ids]
        before = file_states(pairs.root, ids)
        broken = broken_images(pairs.root, ids, progress)
        wrong["images"] = sorted(map(str, broken))
        if changed := changed_files(pairs.root, ids, before):
            wrong["images"].append(changed_line([pairs.root / image_id for image_id in changed]))
        found_images = _image_facts(len(ids), broken)
    wrong["captions"] = _caption_problems(captions)
    notes += _caption_notes(captions)
    notes += _class_notes(pairs)
    poison = None
    if pairs.manifest is not None:
        manifest = pairs.manifest
        poison = {
            "pairs": len(manifest.pairs),
            "rate": manifest.rate,
            "goals": list(manifest.goals),
            "mode": manifest.mode,
            "attack": manifest.attack,
        }
        leakage["poisoned_images"], note = _poisoned_gallery(pairs)
        notes += note
        wrong["manifest"] += manifest_problems(pairs, clean)
        if images:
            wrong["manifest"] += new_image_problems(pairs)
    elif clean is not None and clean.fingerprint != pairs.fingerprint and not manifest_faults:
        wrong["manifest"].append(
            "the set is not the clean set, and no manifest says how they differ"
        )
    if pairs.tables is not None and (tables := pairs.tables.changed()):
        wrong["entries"].append(changed_line(tables))
    return Verification(
        counts=pairs.counts(),
        fingerprint=pairs.fingerprint,
        poison=poison,
        wrong={kind: lines for kind, lines in wrong.items() if lines},
        notes=notes,
        format=format,
        images=found_images,
        leakage=leakage,
        captions=captions,
    )


def broken_images(
    root: Path, ids: Sequence[str], progress: Progress | None = None
) -> list[BrokenImage]:
    """Decode every image once, as a model would read it, and return the faults of those that cannot be.

    Args:
        root: Folder the ids are relative to.
        ids: Relative paths.
        progress: Called with (done, total).
    """
    broken: list[BrokenImage] = []
    for start in range(0, len(ids), IMAGES_AT_ONCE):
        some = ids[start : start + IMAGES_AT_ONCE]
        broken += decode_images(root, some, 1)[1].values()
        if progress is not None:
            progress(start + len(some), len(ids))
    return broken


def _image_facts(count: int, broken: Sequence[BrokenImage]) -> dict[str, Any]:
    kinds = Counter(error.fault for error in broken)
    missing, truncated = kinds["missing"], kinds["truncated"]
    unreadable = len(broken) - missing - truncated
    return {
        "readable": count - len(broken),
        "broken": {"missing": missing, "truncated": truncated, "unreadable": unreadable},
    }


def _caption_problems(captions: Mapping[str, Any]) -> list[str]:
    if not captions["empty"]:
        return []
    return [
        f"{count_phrase(captions['empty'], 'caption')} empty (nothing but marks and spaces), "
        f"the first is with {captions['examples']['empty']}"
    ]


def _caption_notes(captions: Mapping[str, Any]) -> list[str]:
    notes = {
        "too_long": f"{count_phrase(captions['too_long'], 'caption')} longer than the {CONTEXT} tokens that CLIP "
        "reads, and truncated (a lower bound: pieces of text were counted, not tokens)",
        "html": f"HTML is in {count_of(captions['html'], 'caption')}",
        "control": "control characters, or characters that hide or reverse text, are in "
        f"{count_of(captions['control'], 'caption')}",
        "repeated": f"{count_phrase(captions['repeated'], 'caption')} repeated on the same image",
        "images_without": f"{count_phrase(captions['images_without'], 'image')} without a caption",
    }
    found = [
        f"{note}, the first: {captions['examples'][kind]}"
        for kind, note in notes.items()
        if captions[kind]
    ]
    if both := captions["in_train_and_test"]:
        found.append(f"{count_phrase(both, 'text')} in train and in test, on whatever image")
    return found


def _poisoned_gallery(pairs: PairDataset) -> tuple[int, list[str]]:
    """Count test images on which poison is trained, and describe them."""
    images = poisoned_gallery(pairs)
    if not images:
        return 0, []
    return len(images), [
        f"{count_phrase(len(images), 'test image')} trained on, with the poisoned captions that the manifest lists "
        f"and no others: {images[0]}; programs that do not read the manifest see these captions in split test"
    ]


def _class_notes(pairs: PairDataset) -> list[str]:
    table = pairs.images
    labelled = table.class_codes >= 0
    if not table.classes:
        return []
    notes = []
    sizes = np.bincount(table.class_codes[labelled], minlength=len(table.classes))
    if sizes.max() >= IMBALANCE * max(int(sizes.min()), 1):
        notes.append(
            f"the classes are uneven: {count_of(int(sizes.max()), 'image')} of {table.classes[sizes.argmax()]}, "
            f"{sizes.min():,} of {table.classes[sizes.argmin()]}"
        )
    tested = labelled & (table.split_codes == SPLITS.index("test"))
    if tested.any():
        without = sorted(
            name
            for code, name in enumerate(table.classes)
            if not (tested & (table.class_codes == code)).any()
        )
        if without:
            notes.append(
                f"{len(without)} of {len(table.classes)} classes have no test image, the first: {without[0]}"
            )
    return notes
