"""Puts the poison that a manifest lists into a clean set, when an attack makes it or a set is made again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import IntArray, PairDataset


def inject(clean: PairDataset, manifest: PoisonManifest) -> PairDataset:
    """Put the listed poison into the clean set.

    In the mode `replace` the clean pair of each poisoned one is taken out; where an image carries the same caption
    several times, the first of them, so that the result does not depend on which one was drawn.

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
    """Return the first row of each (image, caption), once for each time that it is requested."""
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
