"""Makes the trigger of BadCLIP: a patch in the middle of an image, optimised on a surrogate for a goal."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from mmpoison.attacks.catalogue import ProgressFor
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.optimised import optimised
from mmpoison.attacks.patch_optimisation import PatchData, PatchSettings, optimise_patch
from mmpoison.attacks.surrogate import PixelSurrogate, unit
from mmpoison.base.seeding import generator
from mmpoison.images.triggers import PatchTrigger
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
    cells, about one for each of its pixels.

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
    data = PatchData(
        pixels=surrogate.pixels(pairs, carriers[drawn]),
        clean=unit(surrogate(pairs, carriers[drawn])),
        own=unit(surrogate.captions(own)),
        captions=unit(surrogate.captions([str(caption) for caption in train.captions[captions]])),
        images=unit(surrogate(pairs, images)),
    )
    size = data.pixels.shape[1]
    side = size * blank.side / blank.view
    cells = max(1, min(blank.side, round(side)))
    pattern = optimised(
        surrogate,
        attack,
        lambda: optimise_patch(
            surrogate,
            data,
            cells,
            side,
            settings,
            generator(seed, f"attack/{attack}/{goal}/patch"),
            progress(f"{attack}: optimising the patch") if progress else None,
        )[0],
        inputs=[data.pixels, data.clean, data.own, data.captions, data.images],
        settings={
            "goal": str(goal),
            "seed": seed,
            "cells": cells,
            "side": side,
            **asdict(settings),
        },
        code=optimise_patch.__module__,
    )
    return PatchTrigger(pattern.tobytes(), cells, place="centre")
