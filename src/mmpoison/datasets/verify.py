"""Checks a set of pairs: valid entries, decodable images, and a matching manifest."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.progress import Progress
from mmpoison.base.text import count_of, count_phrase
from mmpoison.datasets.catalogue import DATASETS, load_dataset, recognise
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.images.decode import BrokenImage, decode_images, picture
from mmpoison.images.sources import changed_files, changed_line, file_states, pixels_digest, rgb
from mmpoison.images.triggers import read_trigger
from mmpoison.pairs.builder import inject, made_again
from mmpoison.pairs.folder import ManifestMisfit, restore_clean
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import SPLITS, TRAIN, PairDataset

# -- The report of a data check, as rows for readers and as JSON, with the same content.


@dataclass(frozen=True)
class Verification:
    """The result of a check.

    Attributes:
        counts: The result of `PairDataset.counts`.
        fingerprint: sha256 of the table.
        poison: Goals, mode, rate and number of poisoned pairs, or None for a clean set.
        wrong: Problems by kind (`entries`, `images`, `manifest`), one line each.
        notes: Notes for the reader, although the set is usable.
        format: Name of the format or data set, if known.
        images: Numbers of decodable and broken images; None if the files were not read.
    """

    counts: dict[str, Any]
    fingerprint: str
    poison: dict[str, Any] | None
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    format: str | None = None
    images: dict[str, Any] | None = None

    @property
    def problems(self) -> list[str]:
        """All problems, one line each."""
        return [line for lines in self.wrong.values() for line in lines]

    def facts(self) -> dict[str, str]:
        """Return the facts as the rows of a table: name and text."""
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
        if self.images is not None:
            kinds = (f"{count:,} {kind}" for kind, count in self.images["broken"].items() if count)
            rows["broken images"] = ", ".join(kinds) or "none"
        rows["poisoned"] = (
            "no manifest"
            if self.poison is None
            else f"{count_of(self.poison['pairs'], 'pair')} ({self.poison['rate']:.2%}), "
            f"{', '.join(self.poison['goals'])}, mode {self.poison['mode']}"
        )
        rows["fingerprint"] = self.fingerprint
        return rows

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


IMAGES_AT_ONCE = 256
"""Images passed to the decoding threads at a time: a million tasks at once would fill memory."""


def load_to_verify(
    data: str | Path,
    *,
    format: str | None = None,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[PairDataset, str, list[str]]:
    """Load a data set by name or path, collecting all its problems.

    Args:
        data: Registered name, or a folder or file.
        format: Format of a path, if it cannot be recognised.
        root: Data folder for a name; image folder for a path.
        options: Options of the data set.

    Returns:
        The pairs, with all broken entries in `problems`; the name of their format; and the problems of a manifest that
        was not applied because it does not match.

    Raises:
        InputError: If it cannot be loaded at all.
    """
    given = dict(options or {})
    with warnings.catch_warnings():
        # the check reports what was left out
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
    """Read every image once, and check a poisoned set's manifest against its pairs.

    Args:
        pairs: The set, loaded.
        clean: The clean set that a poisoned set was made from. Its fingerprint is compared, and removing the manifest's
            poison from the poisoned set must restore it.
        images: Read the image files; otherwise only the table is checked.
        format: Name of the format, for display.
        manifest_faults: Problems of a manifest that could not be applied.
        progress: Called with (done, total).
    """
    wrong: dict[str, list[str]] = {
        "entries": list(pairs.problems),
        "images": [],
        "manifest": list(manifest_faults or ()),
    }
    notes: list[str] = []
    found_images = None
    if images:
        ids = [str(image_id) for image_id in pairs.images.ids]
        before = file_states(pairs.root, ids)
        broken = broken_images(pairs.root, ids, progress)
        wrong["images"] = sorted(map(str, broken))
        if changed := changed_files(pairs.root, ids, before):
            wrong["images"].append(changed_line([pairs.root / image_id for image_id in changed]))
        found_images = _image_facts(len(ids), broken)
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
        notes = _poisoned_gallery(pairs)
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
    )


def broken_images(
    root: Path, ids: Sequence[str], progress: Progress | None = None
) -> list[BrokenImage]:
    """Decode every image once, as for a model, and return the problems of broken images.

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


def _poisoned_gallery(pairs: PairDataset) -> list[str]:
    """Report test images on which poisoned captions are trained (attack I)."""
    on_test = pairs.images.split_codes[pairs.image] == SPLITS.index("test")
    images = np.unique(pairs.image[pairs.poisoned & on_test])
    if not len(images):
        return []
    return [
        f"{count_phrase(len(images), 'test image')} trained on, with the poisoned captions that the manifest lists "
        f"and no others: {pairs.images.ids[images[0]]}; programs that do not read the manifest see these captions "
        "in split test"
    ]


# -- Checks whether a poisoned set's manifest describes its pairs.


def manifest_problems(pairs: PairDataset, clean: PairDataset | None) -> list[str]:
    """Check a poisoned set's manifest against its pairs; return one line per difference.

    Args:
        pairs: The poisoned set, with its manifest.
        clean: The clean set, if given: its fingerprint is compared, and adding the manifest's poison must result in the
            poisoned set.
    """
    manifest = pairs.manifest
    assert manifest is not None
    problems = [*_count_problems(pairs, manifest), *_goal_problems(pairs, manifest)]
    if manifest.filtered is not None:
        return problems  # clean pairs were also dropped, so the clean set cannot be restored
    if manifest.fingerprint and pairs.fingerprint != manifest.fingerprint:
        problems.append("the set is not the one that the manifest describes (fingerprint differs)")
    if clean is not None:
        if clean.fingerprint != manifest.clean_fingerprint:
            problems.append(
                "the clean set is not the one that the manifest names (fingerprint differs)"
            )
        elif not _gives(clean, manifest, pairs):
            problems.append("without its poison the set is not the clean set")
    elif (
        manifest.mode == "add"
        and not manifest.dropped_images
        and restore_clean(pairs).fingerprint != manifest.clean_fingerprint
    ):
        problems.append("without its poison the set is not the one the manifest was made from")
    return problems


def new_image_problems(pairs: PairDataset) -> list[str]:
    """Compare images created by the attack with the manifest, and recreate them if it has a trigger.

    Args:
        pairs: The poisoned set, with its manifest. The image check reports unreadable images.
    """
    manifest = pairs.manifest
    assert manifest is not None
    ids, problems = set(pairs.images.ids), []
    try:
        trigger = None if manifest.trigger is None else read_trigger(manifest.trigger)
    except InputError as error:
        return [str(error)]
    for name, new in manifest.added_images.items():
        # open only names that are in the table, because its paths are checked
        if not {name, new.made_from} <= ids:
            if manifest.filtered is None:
                problems.append(
                    f"manifest lists the added image {name!r:.100}, made from {new.made_from!r:.100}: "
                    "the set lacks one of the two"
                )
            continue
        try:
            with picture(pairs.root, name) as image:
                same = pixels_digest(rgb(image)) == new.pixels
            if not same:
                problems.append(f"{name:.200}: its pixels do not match the manifest")
            elif trigger is not None and made_again(pairs.root, new, trigger) is None:
                problems.append(f"{name:.200}: is not {new.made_from:.200} with the trigger")
        except BrokenImage:
            continue
        except InputError as error:
            problems.append(f"{name:.200}: {error}")
    return problems


def _count_problems(pairs: PairDataset, manifest: PoisonManifest) -> list[str]:
    problems: list[str] = []
    train = pairs.select(split="train")
    added = len(manifest.pairs) if manifest.mode == "add" else 0
    complete = manifest.filtered is None and not manifest.dropped_images
    if complete and manifest.clean_pairs + added != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.clean_pairs} training pairs before the attack, but there were "
            f"{manifest.training_pairs - added}"
        )
    if len(train) != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.training_pairs} training pairs, but there are {len(train)}"
        )
    honest = train.images.ids[train.image[~train.poisoned]]
    if kept := set(manifest.dropped_images).intersection(honest):
        problems.append(
            f"manifest says {min(kept)} lost its honest training captions, but it has some"
        )
    written_for = pairs.images.split_codes[pairs.source[pairs.poisoned]]
    from_train = int((written_for == TRAIN).sum())
    if from_train != len(manifest.pairs):
        problems.append(
            f"manifest lists {len(manifest.pairs)} poisoned pairs, but {from_train} have captions of the train split"
        )
    return problems


def _goal_problems(pairs: PairDataset, manifest: PoisonManifest) -> list[str]:
    """Compare goals with pairs: `A2B` defines the class of a pair's caption and of its image."""
    problems: list[str] = []
    named = {pair.goal for pair in manifest.pairs}
    for goal in manifest.goals:
        # a note says if an attack placed no pair of a goal, and a filter may have dropped all
        noted = any(note.startswith(f"goal {goal}:") for note in manifest.notes)
        if goal not in named and not noted and manifest.filtered is None:
            problems.append(f"manifest lists the goal {goal!r:.100}, but no poisoned pair has it")
    if manifest.trigger is not None:
        return problems  # captions of a backdoor belong to no image
    labels = {str(name): pairs.images.label(n) for n, name in enumerate(pairs.images.ids)}
    wrong = []
    for pair in manifest.pairs:
        original, target = labels.get(pair.clean_image), labels.get(pair.poisoned_image)
        # captions of an image created by the attack may belong to no image, like those of a backdoor
        made = pair.poisoned_image in manifest.added_images
        agrees = made or pair.goal == f"{original}2{target}"
        if original and target and not agrees:
            wrong.append(
                f"goal {pair.goal!r:.100} for a caption of class {original!r:.60} on an image of class {target!r:.60}"
            )
    if wrong:
        problems.append(
            f"the goal in the manifest does not match the classes of {count_of(len(wrong), 'pair')}: {wrong[0]}"
        )
    return problems


def _gives(clean: PairDataset, manifest: PoisonManifest, pairs: PairDataset) -> bool:
    try:
        return inject(clean, manifest).fingerprint == pairs.fingerprint
    except InputError:
        return False
