"""Makes the trigger of BadCLIP: a patch in the middle of an image, optimised on a surrogate for a goal."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np

from mmpoison.attacks.catalogue import ProgressFor
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.optimised import optimised
from mmpoison.attacks.patch_optimisation import (
    PatchData,
    PatchSettings,
    coverage,
    optimise_patch,
)
from mmpoison.attacks.surrogate import PixelSurrogate, Vectors, unit
from mmpoison.base.seeding import generator
from mmpoison.images.preparation import Preparation
from mmpoison.images.triggers import PatchTrigger, source_pixels
from mmpoison.pairs.table import IntArray, PairDataset

KNOWN = 512
"""Images without the trigger, images of class A, and captions of class A that it is optimised on: so many of each, at
most."""


def optimise_trigger(
    pairs: PairDataset,
    goal: Goal,
    candidates: IntArray,
    surrogate: PixelSurrogate,
    settings: PatchSettings,
    *,
    attack: str,
    seed: int,
    progress: ProgressFor | None = None,
) -> PatchTrigger:
    """Optimise a patch so that images which carry it are embedded near captions and images of class A.

    The patch covers 16 of 224 pixels of what a model sees. A surrogate that sees fewer pixels gets a pattern with fewer
    cells, about one for each of its pixels. It is optimised at the place where the trigger puts it into each image, in
    whole pixels of the image.

    Args:
        pairs: A clean set.
        goal: Its original class is A.
        candidates: Training images that may carry the trigger, shape `(n,)`.
        surrogate: The model that the attacker knows.
        settings: How it is optimised.
        attack: Name of the attack, for the cache and the progress.
        seed: Seed of the run.
        progress: Gives a callback for (done, total) of a named step.
    """
    blank = PatchTrigger(bytes(3), 1, place="centre")
    train = pairs.select(split="train")
    rng = generator(seed, f"attack/{attack}/{goal}/trigger")
    own_rows = np.flatnonzero(np.isin(train.image, candidates))
    target_rows = np.flatnonzero(
        train.images.class_codes[train.image] == train.images.class_code(goal.original)
    )
    # one true caption for each image: the first of its rows
    carriers, first = np.unique(train.image[own_rows], return_index=True)
    drawn = np.sort(rng.permutation(len(carriers))[:KNOWN])
    captions = np.sort(rng.permutation(target_rows)[:KNOWN])
    images = np.sort(rng.permutation(np.unique(train.image[target_rows]))[:KNOWN])
    own = [str(caption) for caption in train.captions[own_rows[first[drawn]]]]
    chosen = carriers[drawn]
    size = surrogate.preparation.image_size
    cells = max(1, min(blank.side, round(size * blank.side / blank.view)))
    rows, columns = _covered(pairs, chosen, blank, surrogate.preparation, cells)
    data = PatchData(
        pixels=surrogate.pixels(pairs, chosen),
        rows=rows,
        columns=columns,
        clean=unit(surrogate(pairs, chosen)),
        own=unit(surrogate.captions(own)),
        captions=unit(surrogate.captions([str(caption) for caption in train.captions[captions]])),
        images=unit(surrogate(pairs, images)),
    )
    pattern = optimised(
        surrogate,
        attack,
        lambda: optimise_patch(
            surrogate,
            data,
            settings,
            generator(seed, f"attack/{attack}/{goal}/patch"),
            progress(f"{attack}: optimising the patch") if progress else None,
        )[0],
        inputs=[getattr(data, field.name) for field in fields(data)],
        settings={"goal": str(goal), "seed": seed, **asdict(settings)},
        code=optimise_patch.__module__,
    )
    return PatchTrigger(pattern.tobytes(), cells, place="centre")


def _covered(
    pairs: PairDataset,
    images: IntArray,
    trigger: PatchTrigger,
    preparation: Preparation,
    cells: int,
) -> tuple[Vectors, Vectors]:
    """Return how much of the rows and columns of prepared images a trigger covers, shapes `(n, size, cells)`."""
    size = preparation.image_size
    how = trigger.draw(np.random.default_rng(0))
    rows: list[Vectors] = []
    columns: list[Vectors] = []
    for index in images:
        height, width, _ = source_pixels(pairs.root, str(pairs.images.ids[index])).shape
        left, top, side = trigger.where(height, width, how)
        for lines, begin, length in ((rows, top, height), (columns, left, width)):
            whole = {
                "shortest": min(height, width),
                "longest": max(height, width),
                "squash": length,
            }
            scale = size / whole[preparation.resize_mode]
            # the middle of an image stays the middle
            seen = (begin - length / 2) * scale + size / 2
            lines.append(coverage(size, seen, side * scale, cells))
    return np.stack(rows), np.stack(columns)
