"""Selects the clean pairs of a run: which align its towers, and which repair its poisoned model."""

from __future__ import annotations

import numpy as np

from mmpoison.base.phrasing import count_of
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.runs.recipe import Recipe, SterilizePart


def alignment_pairs(
    pairs: PairDataset, name: str = "pretrained", halves: int | None = None
) -> PairDataset:
    """Select the clean pairs on which towers are aligned: those without a label, where there are any.

    Args:
        pairs: The clean data.
        name: `pretrained` or `judge`.
        halves: Seed by which one half of the images goes to `pretrained` and the other to `judge`; None: all go.
    """
    clean = pairs.select(split="val")
    unlabelled = ~_is_labelled(clean)
    clean = clean.where(unlabelled) if unlabelled.any() else clean
    if halves is None:
        return clean
    images = clean.used_images()
    first = generator(halves, "align/halves").permutation(images)[: len(images) // 2]
    return clean.where(np.isin(clean.image, first) == (name == "pretrained"))


def halves_of(recipe: Recipe) -> int | None:
    """Return the seed by which model and judge share the clean images, if both are aligned on them."""
    judge = recipe.filter
    both = recipe.model.align is not None and judge is not None and judge.align is not None
    return recipe.seed if both else None


def _is_labelled(pairs: PairDataset) -> BoolArray:
    """Return which pairs have an image with a label, shape `(N,)`."""
    return pairs.images.class_codes[pairs.image] >= 0


def repair_pairs(pairs: PairDataset, part: SterilizePart, seed: int) -> PairDataset:
    """Select the clean pairs that a repair may use.

    Args:
        pairs: The data, clean or poisoned.
        part: How many, and of which kind.
        seed: Of the run; draws them.

    Raises:
        InputError: If only labelled ones are wanted, and there are fewer than two.
    """
    clean = pairs.select(split="val")
    if part.labelled:
        clean = clean.where(_is_labelled(clean))
        if len(clean) < 2:
            raise InputError(
                f"sterilize.labelled: split val has {count_of(len(clean), 'pair')} with a label, and 2 are needed: "
                "hold some out (data.options.held_out), or leave the key out"
            )
    if part.pairs is None or part.pairs >= len(clean):
        return clean
    chosen = generator(seed, "sterilize/pairs").permutation(len(clean))[: part.pairs]
    mask = np.zeros(len(clean), dtype=bool)
    mask[chosen] = True
    return clean.where(mask)
