"""The last steps of every attack: list the poisoned pairs, make the poisoned set and its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmpoison._version import __version__
from mmpoison.attacks.amount import Mode
from mmpoison.attacks.goal import Goal
from mmpoison.images.triggers import Trigger, trigger_record
from mmpoison.pairs.manifest import AddedImage, PoisonedPair, PoisonManifest
from mmpoison.pairs.poison_record import inject
from mmpoison.pairs.table import IntArray, PairDataset


def poisoned_pairs(
    pairs: PairDataset, rows: IntArray, image: IntArray, goal: Goal
) -> list[PoisonedPair]:
    """List manifest entries for captions that get other images.

    Args:
        pairs: A clean set.
        rows: Which of its captions are misused, shape `(n,)`.
        image: The false image of each, shape `(n,)`.
        goal: The goal that they serve.
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
    """Make the poisoned set of an attack, with its manifest.

    Args:
        clean: The clean set.
        entries: The poisoned pairs.
        attack: Registered name of the attack.
        options: Its options, enough to run it again.
        goals: Its goals.
        mode: Whether the poison is added to the clean pairs or replaces them.
        seed: Seed of the run.
        target_images: For an attack on single target images, the one of each goal.
        dropped_images: Images whose clean training pairs are removed too.
        added_images: Images that the attack made and stored (`pairs.new_images.new_image`), by id.
        trigger: Of a backdoor, what they were made with.
        notes: What the attack reports of its result, one line each.
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
    manifest = replace(
        draft,
        training_pairs=len(poisoned.select(split="train")),
        fingerprint=poisoned.fingerprint,
    )
    return replace(poisoned, manifest=manifest)
