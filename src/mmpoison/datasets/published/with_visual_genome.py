"""Visual Genome beside another set: as clean pairs for a repair (section 5), or as the training data (section 4.2.3).

`flickr-pascal-vg` and `coco-paper-vg` are the paper's sets with Visual Genome as the split `val`, on which a poisoned
model is fine-tuned afterwards. `vg-pascal` trains on Visual Genome and tests on the test half of PASCAL Sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.published.coco_paper import load_coco_paper
from mmpoison.datasets.published.flickr_pascal import join, load_flickr_pascal, load_pascal_test
from mmpoison.datasets.published.visual_genome_paper import load_visual_genome_paper
from mmpoison.errors import InputError
from mmpoison.pairs.table import SPLITS, PairDataset

FOLDER = "visual-genome"


def load_flickr_pascal_vg(
    root: Path | None, seed: int = 0, *, missing: str = "skip"
) -> PairDataset:
    """Flickr-PASCAL, and Visual Genome as clean pairs.

    Args:
        root: Folder that holds `flickr30k/`, `pascal-sentences/` and `visual-genome/`.
        seed: Not used.
        missing: `skip` leaves out entries whose image is not there, `keep` keeps them.

    Raises:
        InputError: If a folder is missing or broken.
    """
    folder = _folder(root, "flickr-pascal-vg")
    return join(folder, (load_flickr_pascal(folder, missing=missing), _clean(folder, missing)))


def load_coco_paper_vg(root: Path | None, seed: int = 0, *, missing: str = "skip") -> PairDataset:
    """COCO of the paper, and Visual Genome as clean pairs.

    Args:
        root: Folder that holds `coco/` and `visual-genome/`.
        seed: Not used.
        missing: As above.

    Raises:
        InputError: If a folder is missing or broken.
    """
    folder = _folder(root, "coco-paper-vg")
    return join(
        folder, (load_coco_paper(folder / "coco", missing=missing), _clean(folder, missing))
    )


def load_vg_pascal(root: Path | None, seed: int = 0, *, missing: str = "skip") -> PairDataset:
    """Visual Genome, labelled by keyword, as training data; the test half of PASCAL Sentences as test.

    Args:
        root: Folder that holds `visual-genome/` and `pascal-sentences/`.
        seed: Not used.
        missing: As above.

    Raises:
        InputError: If a folder is missing or broken.
    """
    folder = _folder(root, "vg-pascal")
    train = load_visual_genome_paper(folder / FOLDER, missing=missing)
    return join(folder, (train, load_pascal_test(folder, missing=missing)))


def _clean(folder: Path, missing: str) -> PairDataset:
    pairs = load_visual_genome_paper(folder / FOLDER, missing=missing)
    codes = np.full_like(pairs.images.split_codes, SPLITS.index("val"))
    return replace(pairs, images=replace(pairs.images, split_codes=codes))


def _folder(root: Path | None, name: str) -> Path:
    if root is None or not root.is_dir():
        raise InputError(f"{root}: no such folder, {name} needs {_NEEDS[name]}")
    return root


_NEEDS = {
    "flickr-pascal-vg": "a folder with `flickr30k/`, `pascal-sentences/` and `visual-genome/`",
    "coco-paper-vg": "a folder with `coco/` and `visual-genome/`",
    "vg-pascal": "a folder with `visual-genome/` and `pascal-sentences/`",
}
_LOADS: dict[str, tuple[Callable[..., PairDataset], str, tuple[str, ...]]] = {
    "flickr-pascal-vg": (
        load_flickr_pascal_vg,
        "flickr-pascal, with Visual Genome as clean pairs for a repair (split val)",
        ("flickr30k", "pascal-sentences", "visual-genome"),
    ),
    "coco-paper-vg": (
        load_coco_paper_vg,
        "coco-paper, with Visual Genome as clean pairs for a repair (split val)",
        ("coco", "visual-genome"),
    ),
    "vg-pascal": (
        load_vg_pascal,
        "the paper's Visual Genome as training data, half of PASCAL Sentences as test",
        ("visual-genome", "pascal-sentences"),
    ),
}

for _name, (_load, _what, _parts) in _LOADS.items():
    register(
        DataSource(
            name=_name,
            summary=_what,
            where_from=_NEEDS[_name],
            terms=f"those of {', '.join(_parts)}",
            load=_load,
            home=_name,
            parts=_parts,
        )
    )
