"""Rebuilds a poisoned set from the clean set and the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.poison_record import inject, restore_new_images
from mmpoison.pairs.table import PairDataset


def rebuild(
    pairs: PairDataset, manifest: PoisonManifest, folder: Path | None = None
) -> PairDataset:
    """Rebuild exactly the poisoned set that a manifest describes, from the clean set it was made from.

    Nothing is drawn again: the manifest lists every false pair, so neither the attack nor its random numbers are
    needed. The location of the images does not matter; ids, captions, labels and splits must be the same. Images that
    the attack added are made again from the clean ones and the manifest's trigger.

    Args:
        pairs: The clean set.
        manifest: The manifest of the poisoned one.
        folder: The folder of the poisoned set, for added images that only a copy gives (adversarial noise).

    Raises:
        InputError: If the set is poisoned, or is not the one that the manifest was made from, or the manifest is one of
            a filtered set, or its list was changed, or an added image cannot be had.
    """
    if pairs.manifest is not None:
        raise InputError("the pairs are poisoned already: apply the manifest to the clean set")
    if manifest.filtered is not None:
        raise InputError(
            "the manifest belongs to a filtered set, which its list of false pairs does not describe: "
            "use the manifest of the poisoned set that was filtered"
        )
    if pairs.fingerprint != manifest.clean_fingerprint:
        train = len(pairs.select(split="train"))
        raise InputError(
            f"the clean set is not the one that the manifest was made from: its fingerprint is "
            f"{pairs.fingerprint[:12]}… with {train:,} training pairs, the manifest names "
            f"{manifest.clean_fingerprint[:12]}… with {manifest.clean_pairs:,}"
        )
    poisoned = inject(pairs, manifest)
    if len(poisoned.select(split="train")) != manifest.training_pairs or (
        manifest.fingerprint and poisoned.fingerprint != manifest.fingerprint
    ):
        raise InputError(
            "the rebuilt set differs from the one that the manifest names (fingerprint): "
            "its list of false pairs was changed"
        )
    restore_new_images(pairs.root, manifest, folder)
    return replace(poisoned, manifest=manifest)
