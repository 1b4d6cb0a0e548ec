"""Check a data set: its entries, images and captions, what its splits share, and whether a manifest tells the truth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.phrasing import count_of, count_phrase
from mmpoison.datasets.catalogue import DATASETS, load_dataset, recognise
from mmpoison.datasets.verify.caption_check import CONTEXT, CaptionFacts, check_captions
from mmpoison.datasets.verify.image_scan import ImageScan, can_hash_perceptually, scan_images
from mmpoison.datasets.verify.likeness import Likeness
from mmpoison.datasets.verify.manifest_check import (
    manifest_problems,
    new_image_problems,
    poisoned_gallery,
)
from mmpoison.datasets.verify.report import Verification
from mmpoison.errors import MmpoisonWarning
from mmpoison.images.sources import changed_files, changed_line, file_states
from mmpoison.pairs.folder import ManifestMisfit
from mmpoison.pairs.table import SPLITS, PairDataset

__all__ = ["Verification", "load_to_verify", "verify_pairs"]

NEAR = 4
"""Bits of 64 in which two perceptual hashes may differ to be called near, by default."""

IMBALANCE = 10
"""A class with this many times the images of another is noted."""


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
    near: int = NEAR,
    format: str | None = None,
    manifest_faults: list[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Read every image and every caption once, and check a poisoned set's manifest against its pairs.

    Args:
        pairs: The set, loaded.
        clean: The set that a poisoned one was made from; its fingerprint is compared, and the manifest's poison is
            taken out of the poisoned set and must leave it.
        images: Read the image files; without, only the table is checked.
        near: Bits of 64 in which the perceptual hashes of nearly equal images may differ.
        format: Name of the format, to be shown.
        manifest_faults: What is wrong with a manifest that could not be applied.
        progress: Called with (done, total).
    """
    wrong: dict[str, list[str]] = {
        "entries": list(pairs.problems),
        "images": [],
        "captions": [],
        "leakage": [],
        "manifest": list(manifest_faults or ()),
    }
    notes: list[str] = []
    found_images = found_duplicates = None
    captions = check_captions(pairs)
    leakage = {"same_captions": captions.in_train_and_test}
    if images:
        ids = [str(image_id) for image_id in pairs.images.ids]
        before = file_states(pairs.root, ids)
        scan = scan_images(pairs.root, ids, progress=progress)
        wrong["images"] = sorted(map(str, scan.faults.values()))
        if changed := changed_files(pairs.root, ids, before):
            wrong["images"].append(changed_line([pairs.root / image_id for image_id in changed]))
        found_images = _image_facts(scan, ids)
        notes += _image_notes(scan, ids)
        likeness = Likeness.of(pairs, scan, near)
        found_duplicates = likeness.to_json()
        leakage = {**likeness.leakage, **leakage}
        wrong["leakage"] = likeness.problems()
        notes += likeness.notes()
        if not can_hash_perceptually():
            notes.append(
                "near duplicates were not looked for: pip install 'mmpoison[data]' (imagehash)"
            )
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
        duplicates=found_duplicates,
        leakage=leakage,
        captions=captions.to_json(),
    )


def _image_facts(scan: ImageScan, ids: list[str]) -> dict[str, Any]:
    return {
        "readable": int(scan.readable.sum()),
        "broken": {
            "missing": len(scan.of_fault("missing")),
            "truncated": len(scan.of_fault("truncated")),
            "unreadable": len(
                scan.of_fault("no-access", "broken", "no-image", "too-large", "no-memory")
            ),
        },
        "formats": dict(scan.formats.most_common()),
        "smallest": scan.smallest,
        "largest": scan.largest,
        "wrong_extension": {ids[index]: name for index, name in sorted(scan.wrong_suffix.items())},
        "animated": [ids[index] for index in scan.animated],
        "rotated": [ids[index] for index in scan.rotated],
    }


def _image_notes(scan: ImageScan, ids: list[str]) -> list[str]:
    notes = []
    if scan.wrong_suffix:
        first = min(scan.wrong_suffix)
        notes.append(
            f"{count_phrase(len(scan.wrong_suffix), 'image')} of another format than the name says, the first: "
            f"{ids[first]} is {scan.wrong_suffix[first]}; they load"
        )
    if scan.animated:
        notes.append(
            f"{count_phrase(len(scan.animated), 'image')} animated, the first: {ids[scan.animated[0]]}; "
            "models see the first frame"
        )
    if scan.rotated:
        notes.append(
            f"{count_phrase(len(scan.rotated), 'image')} rotated by EXIF data, the first: {ids[scan.rotated[0]]}; "
            "models see them as they are stored, as in CLIP's own pipeline"
        )
    return notes


def _caption_problems(captions: CaptionFacts) -> list[str]:
    if not captions.empty:
        return []
    return [
        f"{count_phrase(captions.empty, 'caption')} empty (nothing but marks and spaces), "
        f"the first is with {captions.examples['empty']}"
    ]


def _caption_notes(captions: CaptionFacts) -> list[str]:
    notes = []
    first = captions.examples.get
    for kind, count, what in (
        (
            "too_long",
            captions.too_long,
            f"{count_phrase(captions.too_long, 'caption')} longer than the {CONTEXT} tokens that CLIP reads, "
            "and truncated (a lower bound: pieces of text were counted, not tokens)",
        ),
        ("html", captions.html, f"HTML is in {count_of(captions.html, 'caption')}"),
        (
            "control",
            captions.control,
            "control characters, or characters that hide or reverse text, are in "
            f"{count_of(captions.control, 'caption')}",
        ),
        (
            "repeated",
            captions.repeated,
            f"{count_phrase(captions.repeated, 'caption')} repeated on the same image",
        ),
    ):
        if count:
            notes.append(f"{what}, the first: {first(kind)}")
    if captions.images_without:
        notes.append(
            f"{count_phrase(captions.images_without, 'image')} without a caption, the first: "
            f"{first('images_without')}"
        )
    if captions.in_train_and_test:
        notes.append(
            f"{count_phrase(captions.in_train_and_test, 'text')} in train and in test, on whatever image"
        )
    return notes


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
