"""Visual Genome with another set: as clean pairs for a repair (section 5), or as the training data (section 4.2.3).

`flickr-pascal-vg` and `coco-paper-vg` are the paper's sets with Visual Genome as the split `val`, on which a poisoned
model is fine-tuned afterwards. `vg-pascal` trains on Visual Genome and tests on the test half of PASCAL Sentences.

Half of Visual Genome's images are COCO's too. A repair on them would see test images, and images of the training, with
other captions: `coco-paper-vg` leaves them out unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.options import one_of
from mmpoison.datasets.published.adapter import composed_folder, join
from mmpoison.datasets.published.coco_paper import load_coco_paper
from mmpoison.datasets.published.flickr_pascal import load_flickr_pascal, load_pascal_test
from mmpoison.datasets.published.visual_genome import coco_numbers
from mmpoison.datasets.published.visual_genome_paper import load_visual_genome_paper
from mmpoison.errors import InputError
from mmpoison.pairs.splits import image_name
from mmpoison.pairs.table import SPLITS, PairDataset

COCO_NEEDS = "a folder with `coco/` and `visual-genome/`"

Part = Callable[[Path, str], PairDataset]
"""Loads one of the sets from the folder that holds them, given what is done with missing images."""


def _visual_genome(folder: Path, missing: str) -> PairDataset:
    return load_visual_genome_paper(folder / "visual-genome", missing=missing)


def _clean_visual_genome(folder: Path, missing: str) -> PairDataset:
    pairs = _visual_genome(folder, missing)
    codes = np.full_like(pairs.images.split_codes, SPLITS.index("val"))
    return replace(pairs, images=replace(pairs.images, split_codes=codes))


def load_coco_with_visual_genome(
    root: Path | None, seed: int = 0, *, missing: str = "skip", shared: str = "leave-out"
) -> PairDataset:
    """Load the paper's COCO with Visual Genome as the split `val`.

    Args:
        root: Holds `coco/` and `visual-genome/`.
        seed: Not used, as for the two sets.
        missing: What is done with images that are not there, see `ImageOptions`.
        shared: Images of Visual Genome that COCO has too: `leave-out`, by `coco_id` in `image_data.json`, or `keep`.

    Raises:
        InputError: If a folder or file is missing or broken.
    """
    one_of("shared", shared, ("leave-out", "keep"))
    folder = composed_folder(root, "coco-paper-vg", COCO_NEEDS)
    coco = load_coco_paper(folder / "coco", missing=missing)
    clean = _clean_visual_genome(folder, missing)
    if shared == "leave-out":
        clean = _without(clean, _numbers_of(coco), coco_numbers(folder / "visual-genome"))
    return join(folder, [coco, clean])


def _numbers_of(coco: PairDataset) -> set[int]:
    """Return the numbers of COCO's images: the last digits of their names (`COCO_val2014_000000000042.jpg`)."""
    ends = (re.search(r"(\d+)\.\w+$", str(image_id)) for image_id in coco.images.ids)
    return {int(end[1]) for end in ends if end}


def _without(clean: PairDataset, numbers: set[int], in_coco: Mapping[str, int]) -> PairDataset:
    kept = [in_coco.get(image_name(str(image))) not in numbers for image in clean.images.ids]
    if not any(kept):
        raise InputError(
            "coco-paper-vg: every image of Visual Genome is in COCO too; data option shared=keep keeps them"
        )
    return clean.piece(np.flatnonzero(kept))


def _register(
    name: str,
    what: str,
    needs: str,
    parts: tuple[str, ...],
    loads: tuple[Part, Part] | Callable[..., PairDataset],
) -> None:
    def join_parts(root: Path | None, seed: int = 0, *, missing: str = "skip") -> PairDataset:
        assert isinstance(loads, tuple)
        folder = composed_folder(root, name, needs)
        return join(folder, [part(folder, missing) for part in loads])

    load = join_parts if isinstance(loads, tuple) else loads
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
    "coco-paper, with Visual Genome, less the images of COCO, as clean pairs for a repair (split val)",
    COCO_NEEDS,
    ("coco", "visual-genome"),
    load_coco_with_visual_genome,
)
_register(
    "vg-pascal",
    "the paper's Visual Genome as training data, half of PASCAL Sentences as test",
    "a folder with `visual-genome/` and `pascal-sentences/`",
    ("visual-genome", "pascal-sentences"),
    (_visual_genome, lambda folder, missing: load_pascal_test(folder, missing=missing)),
)
