"""Whether the manifest of a poisoned set tells the truth about its pairs."""

from __future__ import annotations

import numpy as np

from mmpoison.datasets.pairs import PairDataset
from mmpoison.datasets.pairs_folder import restore_clean


def manifest_problems(pairs: PairDataset, clean: PairDataset | None) -> list[str]:
    """Check a poisoned set's manifest against its pairs, one line for everything that differs.

    Args:
        pairs: The poisoned set, with its manifest.
        clean: The set it was made from, if at hand: its fingerprint is compared, and the poison is taken out of the
            poisoned set and must leave it.
    """
    manifest = pairs.manifest
    assert manifest is not None
    problems: list[str] = []
    train = pairs.select(split="train")
    added = len(manifest.pairs) if manifest.mode == "add" else 0
    if manifest.filtered is None and manifest.clean_pairs + added != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.clean_pairs} training pairs before the attack, there were "
            f"{manifest.training_pairs - added}"
        )
    if len(train) != manifest.training_pairs:
        problems.append(
            f"manifest says {manifest.training_pairs} training pairs, there are {len(train)}"
        )
    if int(train.poisoned.sum()) != len(manifest.pairs):
        problems.append(
            f"manifest lists {len(manifest.pairs)} poisoned pairs, {int(train.poisoned.sum())} are in the train split"
        )
    if manifest.filtered is not None:
        return problems  # clean pairs were dropped too, so the set cannot be undone
    if clean is not None:
        if clean.fingerprint != manifest.clean_fingerprint:
            problems.append(
                "the clean set is not the one that the manifest names (fingerprint differs)"
            )
        elif _multiset(restore_clean(pairs)) != _multiset(clean):
            problems.append("without its poison the set is not the clean set")
    elif manifest.mode == "add" and restore_clean(pairs).fingerprint != manifest.clean_fingerprint:
        problems.append("without its poison the set is not the one the manifest was made from")
    return problems


def _multiset(pairs: PairDataset) -> list[tuple[str, str]]:
    order = np.lexsort((pairs.captions.astype(str), pairs.image))
    return [(pairs.images.ids[pairs.image[i]], pairs.captions[i]) for i in order]
