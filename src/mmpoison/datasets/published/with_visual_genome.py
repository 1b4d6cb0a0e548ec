"""Visual Genome with another set: as clean pairs for a repair (section 5), or as the training data (section 4.2.3).

`flickr-pascal-vg` and `coco-paper-vg` are the paper's sets with Visual Genome as the split `val`, on which a poisoned
model is fine-tuned afterwards. `vg-pascal` trains on Visual Genome and tests on the test half of PASCAL Sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.published.adapter import composed_folder, join
from mmpoison.datasets.published.coco_paper import load_coco_paper
from mmpoison.datasets.published.flickr_pascal import load_flickr_pascal, load_pascal_test
from mmpoison.datasets.published.visual_genome_paper import load_visual_genome_paper
from mmpoison.pairs.table import SPLITS, PairDataset

Part = Callable[[Path, str], PairDataset]
"""Loads one of the sets from the folder that holds them, given what is done with missing images."""


def _visual_genome(folder: Path, missing: str) -> PairDataset:
    return load_visual_genome_paper(folder / "visual-genome", missing=missing)


def _clean_visual_genome(folder: Path, missing: str) -> PairDataset:
    pairs = _visual_genome(folder, missing)
    codes = np.full_like(pairs.images.split_codes, SPLITS.index("val"))
    return replace(pairs, images=replace(pairs.images, split_codes=codes))


def _register(
    name: str, what: str, needs: str, parts: tuple[str, ...], loads: tuple[Part, Part]
) -> None:
    def load(root: Path | None, seed: int = 0, *, missing: str = "skip") -> PairDataset:
        folder = composed_folder(root, name, needs)
        return join(folder, [part(folder, missing) for part in loads])

    register(
        DataSource(
            name=name,
            summary=what,
            where_from=needs,
            terms=f"those of {', '.join(parts)}",
            load=load,
            home=name,
            parts=parts,
        )
    )


_register(
    "flickr-pascal-vg",
    "flickr-pascal, with Visual Genome as clean pairs for a repair (split val)",
    "a folder with `flickr30k/`, `pascal-sentences/` and `visual-genome/`",
    ("flickr30k", "pascal-sentences", "visual-genome"),
    (
        lambda folder, missing: load_flickr_pascal(folder, missing=missing),
        _clean_visual_genome,
    ),
)
_register(
    "coco-paper-vg",
    "coco-paper, with Visual Genome as clean pairs for a repair (split val)",
    "a folder with `coco/` and `visual-genome/`",
    ("coco", "visual-genome"),
    (
        lambda folder, missing: load_coco_paper(folder / "coco", missing=missing),
        _clean_visual_genome,
    ),
)
_register(
    "vg-pascal",
    "the paper's Visual Genome as training data, half of PASCAL Sentences as test",
    "a folder with `visual-genome/` and `pascal-sentences/`",
    ("visual-genome", "pascal-sentences"),
    (_visual_genome, lambda folder, missing: load_pascal_test(folder, missing=missing)),
)
