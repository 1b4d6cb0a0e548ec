"""Checks whether the manifest of a poisoned set describes its pairs."""

from __future__ import annotations

import numpy as np

from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, picture
from mmpoison.images.sources import pixels_digest, rgb
from mmpoison.images.triggers import read_trigger
from mmpoison.pairs.folder import restore_clean
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.poison_record import inject, made_again
from mmpoison.pairs.table import SPLITS, TRAIN, PairDataset


def manifest_problems(pairs: PairDataset, clean: PairDataset | None) -> list[str]:
    """Check a poisoned set's manifest against its pairs, one line for everything that differs.

    Args:
        pairs: The poisoned set, with its manifest.
        clean: The set it was made from, if given: its fingerprint is compared, and with the poison of the manifest it
            must give the poisoned set.
    """
    manifest = pairs.manifest
    assert manifest is not None
    problems = [*_count_problems(pairs, manifest), *_goal_problems(pairs, manifest)]
    if manifest.filtered is not None:
        return problems  # clean pairs were dropped too, so the set cannot be undone
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
    """Compare the images that the attack made with the manifest, and make them again where it has a trigger.

    Args:
        pairs: The poisoned set, with its manifest. Images that cannot be read are left to the check of images.
    """
    manifest = pairs.manifest
    assert manifest is not None
    ids, problems = set(pairs.images.ids), []
    try:
        trigger = None if manifest.trigger is None else read_trigger(manifest.trigger)
    except InputError as error:
        return [str(error)]
    for name, new in manifest.added_images.items():
        # a name of the manifest is opened only if the table has it, whose paths are checked
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
                problems.append(f"{name:.200}: its pixels are not those that the manifest names")
            elif trigger is not None and made_again(pairs.root, new, trigger) is None:
                problems.append(f"{name:.200}: is not {new.made_from:.200} with the trigger")
        except BrokenImage:
            continue
        except InputError as error:
            problems.append(f"{name:.200}: {error}")
    return problems


def poisoned_gallery(pairs: PairDataset) -> list[str]:
    """List test images on which poisoned captions are trained (attack I), in table order."""
    on_test = pairs.images.split_codes[pairs.image] == SPLITS.index("test")
    return [str(pairs.images.ids[i]) for i in np.unique(pairs.image[pairs.poisoned & on_test])]


def _count_problems(pairs: PairDataset, manifest: PoisonManifest) -> list[str]:
    problems: list[str] = []
    train = pairs.select(split="train")
    added = len(manifest.pairs) if manifest.mode == "add" else 0
    complete = manifest.filtered is None and not manifest.dropped_images
    if complete and manifest.clean_pairs + added != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.clean_pairs} training pairs before the attack, there were "
            f"{manifest.training_pairs - added}"
        )
    if len(train) != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.training_pairs} training pairs, there are {len(train)}"
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
            f"manifest lists {len(manifest.pairs)} poisoned pairs, {from_train} have captions of the train split"
        )
    return problems


def _goal_problems(pairs: PairDataset, manifest: PoisonManifest) -> list[str]:
    """Compare the goals with the pairs: `A2B` says the class of a pair's caption, and that of its image."""
    problems: list[str] = []
    named = {pair.goal for pair in manifest.pairs}
    for goal in manifest.goals:
        # an attack that placed none of a goal says so in a note, and a filter may have caught all
        noted = any(note.startswith(f"goal {goal}:") for note in manifest.notes)
        if goal not in named and not noted and manifest.filtered is None:
            problems.append(f"manifest lists the goal {goal!r:.100}, but no poisoned pair has it")
    if manifest.trigger is not None:
        return problems  # captions of a backdoor are written for no image
    labels = {str(name): pairs.images.label(n) for n, name in enumerate(pairs.images.ids)}
    wrong = []
    for pair in manifest.pairs:
        original, target = labels.get(pair.clean_image), labels.get(pair.poisoned_image)
        # captions of an image that the attack made may be written for no image, as those of a backdoor
        made = pair.poisoned_image in manifest.added_images
        agrees = made or pair.goal == f"{original}2{target}"
        if original and target and not agrees:
            wrong.append(
                f"goal {pair.goal!r:.100} for a caption of class {original!r:.60} on an image of class {target!r:.60}"
            )
    if wrong:
        problems.append(
            f"manifest names a goal that is not that of the classes for {count_of(len(wrong), 'pair')}: {wrong[0]}"
        )
    return problems


def _gives(clean: PairDataset, manifest: PoisonManifest, pairs: PairDataset) -> bool:
    try:
        return inject(clean, manifest).fingerprint == pairs.fingerprint
    except InputError:
        return False
