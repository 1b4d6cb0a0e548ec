"""`visual-genome-paper`: Visual Genome as the paper uses it (section A.1): at most five captions, labels by keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from mmpoison.datasets.catalogue import DataSource, derived, register
from mmpoison.datasets.options import one_of
from mmpoison.datasets.published.adapter import ImageOptions
from mmpoison.datasets.published.visual_genome import (
    PAPER_KEYWORDS,
    TERMS,
    WHERE_FROM,
    load_visual_genome,
)
from mmpoison.pairs.labels import categories_of, labels_of, relabel
from mmpoison.pairs.splits import balanced
from mmpoison.pairs.table import PairDataset

CAPTIONS = 5


def load_visual_genome_paper(
    root: Path | None,
    seed: int = 0,
    *,
    match: str = "chosen",
    caption_seed: int = 0,
    **options: Unpack[ImageOptions],
) -> PairDataset:
    """Load the paper's Visual Genome, all of it training data.

    Args:
        root: A folder of Visual Genome.
        seed: Not used, so that runs with different seeds share captions and labels.
        match: Keywords are looked for in the `chosen` captions, or in `all` that an image has (which needs memory for 5
            million captions): the paper can be read either way.
        caption_seed: Draws the captions.
        **options: Which images are used, see `ImageOptions`.

    Returns:
        At most five captions an image; images with sheep, lamb or goat are `sheep`, with plane or jet `aeroplane`, with
        both unlabelled, as are all others.

    Raises:
        InputError: If the file is missing or not of this format.
    """
    one_of("match", match, ("chosen", "all"))

    def load(captions: int) -> PairDataset:
        return load_visual_genome(
            root,
            captions_per_image=captions,
            keywords=PAPER_KEYWORDS,
            caption_seed=caption_seed,
            **options,
        )

    chosen = load(CAPTIONS)
    if match == "chosen":
        return chosen
    # the same captions as with `chosen`, so that the two readings differ in their labels alone
    whole = load(0)
    return relabel(chosen, labels=labels_of(whole), categories=categories_of(whole))


for _name, _load, _what in (
    ("visual-genome-paper", load_visual_genome_paper, "at most 5 captions an image"),
    (
        "visual-genome-paper-b",
        # drawn from the five, so the labels are those of the five
        derived(load_visual_genome_paper, balanced, "caption_seed"),
        "one caption an image",
    ),
):
    register(
        DataSource(
            name=_name,
            summary=f"the paper's Visual Genome: {_what}, sheep and aeroplane by keyword, all training data",
            where_from=f"{WHERE_FROM}; mmpoison data build visual-genome --out DIR fetches it",
            terms=TERMS,
            load=_load,
            home="visual-genome",
            parts=("visual-genome",),
        )
    )
