"""Final steps of every attack: lists the poisoned pairs and creates the set with its manifest. Also rebuilds sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpoison._version import __version__
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.settings import Mode
from mmpoison.errors import InputError
from mmpoison.images.triggers import Trigger, trigger_record
from mmpoison.pairs.manifest import AddedImage
from mmpoison.pairs.manifest import PoisonedPair as PoisonedPair
from mmpoison.pairs.manifest import PoisonManifest as PoisonManifest
from mmpoison.pairs.poison_record import inject, restore_new_images
from mmpoison.pairs.table import IntArray, PairDataset


def poisoned_pairs(
    pairs: PairDataset, rows: IntArray, image: IntArray, goal: Goal
) -> list[PoisonedPair]:
    """Create manifest entries for captions that are moved to other images.

    Args:
        pairs: A clean set.
        rows: Rows of the captions to use, shape `(n,)`.
        image: The false image of each caption, shape `(n,)`.
        goal: The goal of these pairs.
    """
    ids = pairs.images.ids
    return [
        PoisonedPair(
            str(pairs.captions[row]), str(ids[pairs.source[row]]), str(ids[bad]), str(goal)
        )
        for row, bad in zip(rows, image, strict=True)
    ]


def poison_set(
    clean: PairDataset,
    entries: Sequence[PoisonedPair],
    *,
    attack: str,
    options: Mapping[str, Any],
    goals: Sequence[Goal],
    mode: Mode,
    seed: int,
    target_images: Mapping[str, str] | None = None,
    dropped_images: Sequence[str] = (),
    added_images: Mapping[str, AddedImage] | None = None,
    trigger: Trigger | None = None,
    notes: Sequence[str] = (),
) -> PairDataset:
    """Create an attack's poisoned set, with its manifest.

    Args:
        clean: The clean set.
        entries: The poisoned pairs.
        attack: Registered name of the attack.
        options: Its options, sufficient to run it again.
        goals: Its goals.
        mode: Whether the poison is added to the clean pairs or replaces some.
        seed: Seed of the run.
        target_images: For attacks on single target images, each goal's image.
        dropped_images: Images whose clean training pairs are also removed.
        added_images: Images that the attack created and stored (`pairs.new_images.new_image`), by id.
        trigger: A backdoor's trigger, which these images contain.
        notes: Notes about the result, one line each.
    """
    clean_pairs = len(clean.select(split="train"))
    draft = PoisonManifest(
        attack=attack,
        options=dict(options),
        goals=tuple(map(str, goals)),
        mode=mode,
        seed=seed,
        clean_fingerprint=clean.fingerprint,
        clean_pairs=clean_pairs,
        training_pairs=clean_pairs + len(entries),
        pairs=tuple(entries),
        tool_version=__version__,
        target_images=dict(target_images or {}),
        dropped_images=tuple(dropped_images),
        added_images=dict(added_images or {}),
        trigger=None if trigger is None else trigger_record(trigger),
        notes=tuple(notes),
    )
    poisoned = inject(clean, draft)
    found = len(poisoned.select(split="train"))
    manifest = replace(draft, training_pairs=found, fingerprint=poisoned.fingerprint)
    return replace(poisoned, manifest=manifest)


def rebuild(
    pairs: PairDataset, manifest: PoisonManifest, folder: Path | None = None
) -> PairDataset:
    """Rebuild the exact poisoned set of a manifest from the original clean set.

    The manifest lists every false pair, so rebuilding needs neither the attack nor random draws. Images may be stored
    elsewhere, but ids, captions, labels and splits must be the same. Images added by the attack are created again from
    the clean images and the manifest's trigger.

    Args:
        pairs: The clean set.
        manifest: The manifest of the poisoned set.
        folder: The folder of the poisoned set, for added images that can only be copied (adversarial noise).

    Raises:
        InputError: If the set is poisoned or is not the manifest's clean set, if the manifest belongs to a filtered set
            or its list was changed, or if an added image is missing.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: apply the manifest to the clean set")
    if manifest.filtered is not None:
        raise InputError(
            "the manifest belongs to a filtered set and cannot rebuild it: use the manifest of the poisoned set "
            "before filtering"
        )
    if pairs.fingerprint != manifest.clean_fingerprint:
        train = len(pairs.select(split="train"))
        raise InputError(
            f"the clean set is not the one that the manifest was made from: its fingerprint is "
            f"{pairs.fingerprint[:12]}… with {train:,} training pairs, but the manifest names "
            f"{manifest.clean_fingerprint[:12]}… with {manifest.clean_pairs:,}"
        )
    poisoned = inject(pairs, manifest)
    if len(poisoned.select(split="train")) != manifest.training_pairs or (
        manifest.fingerprint and poisoned.fingerprint != manifest.fingerprint
    ):
        raise InputError(
            "the rebuilt set does not match the fingerprint in the manifest: its list of false pairs was changed"
        )
    restore_new_images(pairs.root, manifest, folder)
    return replace(poisoned, manifest=manifest)
