"""Check a data set: images that cannot be read, and whether a manifest tells the truth."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmpoison.datasets.pairs import PairDataset
from mmpoison.datasets.pairs_folder import restore_clean
from mmpoison.errors import InputError
from mmpoison.images.decode import read_image


@dataclass(frozen=True)
class Verification:
    """What a check found.

    Attributes:
        counts: As `PairDataset.counts`.
        fingerprint: sha256 of the table.
        poison: Goals, mode, rate and number of poisoned pairs, or None for a clean set.
        problems: One line for everything that is wrong.
    """

    counts: dict[str, Any]
    fingerprint: str
    poison: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Rows of a table for a reader."""
        rows: dict[str, Any] = {"images": self.counts["images"], "pairs": self.counts["pairs"]}
        for split, numbers in self.counts["splits"].items():
            rows[split] = f"{numbers['images']} images, {numbers['pairs']} pairs"
        classes = self.counts["classes"]
        if classes:
            rows["classes"] = (
                f"{len(classes)}, {min(classes.values())} to {max(classes.values())} images each"
            )
        rows["fingerprint"] = self.fingerprint
        if self.poison is None:
            rows["poisoned"] = "no manifest"
        else:
            rows["poisoned"] = (
                f"{self.poison['pairs']} pairs ({self.poison['rate']:.2%}), "
                f"{', '.join(self.poison['goals'])}, mode {self.poison['mode']}"
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "counts": self.counts,
            "fingerprint": self.fingerprint,
            "poison": self.poison,
            "problems": self.problems,
        }


def verify_pairs(
    pairs: PairDataset,
    *,
    clean: PairDataset | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Read every image once, and check a poisoned set's manifest against its pairs.

    Args:
        pairs: The set, loaded; its lines are sound already.
        clean: The set that a poisoned one was made from; its fingerprint is compared, and the manifest's poison is
            taken out of the poisoned set and must leave it.
        progress: Called with (done, total).
    """
    problems = _unreadable(pairs, progress)
    empty = sum(not caption.strip() for caption in pairs.captions)
    if empty:
        problems.append(f"{empty} captions are empty")
    poison = None
    if pairs.manifest is not None:
        manifest = pairs.manifest
        poison = {
            "pairs": len(manifest.pairs),
            "rate": manifest.rate,
            "goals": list(manifest.goals),
            "mode": manifest.mode,
        }
        problems += _manifest_problems(pairs, clean)
    elif clean is not None and clean.fingerprint != pairs.fingerprint:
        problems.append("the set is not the clean set, and no manifest says how they differ")
    return Verification(pairs.counts(), pairs.fingerprint, poison, problems)


def _unreadable(pairs: PairDataset, progress: Callable[[int, int], None] | None) -> list[str]:
    problems: list[str] = []

    def check(image_id: str) -> None:
        try:
            read_image(pairs.root, image_id, 8)
        except InputError as error:
            problems.append(str(error))

    ids = [str(image_id) for image_id in pairs.images.ids]
    with ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(check, ids), start=1):
            if progress is not None and (done % 256 == 0 or done == len(ids)):
                progress(done, len(ids))
    return sorted(problems)


def _manifest_problems(pairs: PairDataset, clean: PairDataset | None) -> list[str]:
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
