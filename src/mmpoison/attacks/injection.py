"""Put the poison that a manifest lists into a clean set: the last step of every attack, and how a set is rebuilt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmpoison._version import __version__
from mmpoison.attacks.amount import Mode
from mmpoison.attacks.goal import Goal
from mmpoison.datasets.manifest import PoisonedPair, PoisonManifest
from mmpoison.datasets.pairs import IntArray, PairDataset
from mmpoison.errors import InputError


def poisoned_pairs(
    pairs: PairDataset, rows: IntArray, image: IntArray, goal: Goal
) -> list[PoisonedPair]:
    """The entries of a manifest for captions that are put on other images.

    Args:
        pairs: A clean set.
        rows: Which of its captions are misused, shape `(n,)`.
        image: The false image of each, shape `(n,)`.
        goal: What for.
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
) -> PairDataset:
    """Make the poisoned set of an attack, with its manifest.

    Args:
        clean: The clean set.
        entries: The poisoned pairs.
        attack: Registered name of the attack.
        options: Its options, enough to run it again.
        goals: Its goals.
        mode: Whether the poison is added to the clean pairs or takes their place.
        seed: Seed of the run.
        target_images: For an attack that aims at single images, the one of each goal.
        dropped_images: Images whose clean training pairs are taken out too.
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
    )
    poisoned = inject(clean, draft)
    manifest = replace(
        draft,
        training_pairs=len(poisoned.select(split="train")),
        fingerprint=poisoned.fingerprint,
    )
    return replace(poisoned, manifest=manifest)


def inject(clean: PairDataset, manifest: PoisonManifest) -> PairDataset:
    """Put the listed poison into the clean set.

    In the mode `replace` the clean pair of each poisoned one is taken out; where an image carries the same caption
    several times, the first of them, so that the result does not hang on which one was drawn.

    Raises:
        InputError: If an image or a clean pair that the manifest lists is not in the set.
    """
    index = {image_id: place for place, image_id in enumerate(clean.images.ids)}
    source = _places(index, [entry.clean_image for entry in manifest.pairs])
    image = _places(index, [entry.poisoned_image for entry in manifest.pairs])
    captions = [entry.caption for entry in manifest.pairs]
    kept = np.ones(len(clean), dtype=bool)
    if manifest.mode == "replace":
        kept[_rows_of(clean, source, captions)] = False
    if manifest.dropped_images:
        dropped = _places(index, manifest.dropped_images)
        kept &= ~(np.isin(clean.image, dropped) & clean.in_split("train"))
    part = clean.where(kept)
    return PairDataset.build(
        clean.images,
        [*part.captions, *captions],
        np.concatenate([part.image, image]),
        np.concatenate([part.source, source]),
        manifest,
        clean.problems,
    )


def _places(index: Mapping[str, int], ids: Collection[str]) -> IntArray:
    try:
        return np.fromiter((index[name] for name in ids), dtype=np.int32, count=len(ids))
    except KeyError as error:
        raise InputError(
            f"image {error.args[0]!r} of the manifest is not in the set: it was made from another one"
        ) from None


def _rows_of(clean: PairDataset, source: IntArray, captions: Sequence[str]) -> IntArray:
    """The first row of each (image, caption), one for each time that it is asked for."""
    slots: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(clean.image, source))[::-1]:
        slots[int(clean.image[row]), clean.captions[row]].append(int(row))
    rows: list[int] = []
    for place, caption in zip(source.tolist(), captions, strict=True):
        left = slots.get((place, caption))
        if not left:
            raise InputError(
                f"the pair {caption[:60]!r} with {clean.images.ids[place]!r} of the manifest is not in the set: "
                "it was made from another one"
            )
        rows.append(left.pop())
    return np.array(rows, dtype=np.int32)
