"""Write what a filter kept as a pairs folder, with a verdict for every pair it judged."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmpoison.datasets.manifest import PoisonedPair
from mmpoison.datasets.pairs import BoolArray, PairDataset
from mmpoison.datasets.pairs_folder import ImagePolicy, save_pairs
from mmpoison.defenses.relevance_filter import FilterResult

VERDICTS_FILE = "verdicts.jsonl"


def save_filtered(
    pairs: PairDataset,
    judged: BoolArray,
    result: FilterResult,
    out: Path,
    *,
    images: ImagePolicy = "link",
) -> Path:
    """Write the kept pairs, the pairs that were not judged, and `verdicts.jsonl`.

    Where the poison is known the manifest goes along, cut down to the poisoned pairs that the filter let through.

    Args:
        pairs: The whole set.
        judged: Which pairs the filter judged, shape `(N,)`.
        result: What it decided, in the order of the judged pairs.
        out: New folder.
        images: As in `save_pairs`.

    Raises:
        InputError: If `out` holds something already.
    """
    keep = ~judged
    keep[np.flatnonzero(judged)[result.keep]] = True
    kept = pairs.where(keep)
    if pairs.manifest is not None:
        left = Counter(
            (
                kept.captions[row],
                kept.images.ids[kept.source[row]],
                kept.images.ids[kept.image[row]],
            )
            for row in np.flatnonzero(kept.poisoned)
        )
        entries: list[PoisonedPair] = []
        for entry in pairs.manifest.pairs:
            key = (entry.caption, entry.clean_image, entry.poisoned_image)
            if left[key] > 0:
                left[key] -= 1
                entries.append(entry)
        manifest = replace(
            pairs.manifest,
            pairs=tuple(entries),
            training_pairs=len(kept.select(split="train")),
            filtered=result.facts(pairs.where(judged)),
        )
        kept = replace(kept, manifest=manifest)
    return save_pairs(
        kept, out, images=images, extra={VERDICTS_FILE: _verdicts(pairs.where(judged), result)}
    )


def _verdicts(judged: PairDataset, result: FilterResult) -> str:
    lines = (
        json.dumps(
            {
                "image": judged.images.ids[judged.image[row]],
                "caption": judged.captions[row],
                "distance": round(float(result.distances[row]), 6),
                "keep": bool(result.keep[row]),
            }
        )
        for row in range(len(judged))
    )
    return "\n".join(lines) + "\n"
