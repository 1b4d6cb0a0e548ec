"""Draws random parts of real data as clean sets, for `false_alarms.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from clean_sets import CleanSet

from mmpoison.base.files import cache_folder
from mmpoison.base.seeding import generator
from mmpoison.datasets import load_dataset
from mmpoison.defenses.filters.suspicious_groups import Views
from mmpoison.defenses.filters.suspicious_groups._features import caption_features, image_features
from mmpoison.models import load_encoder, prepare_features
from mmpoison.pairs.table import PairDataset

ENCODER = "efficientnet-minilm"
SOURCES = (
    ("rsicd-ucm", "", "rsicd/"),
    ("rsicd-ucm", "", "ucm/"),
    ("pascal-sentences", "pascal_sentences", ""),
    ("coco", "coco_mini", ""),
)
"""Name and folder of each data set, and what the ids of its images begin with: features are cached for whole sets."""

MOST_IMAGES = 3000
SHARES = (0.25, 0.5, 0.75, 0.9)


class RealSets:
    """Real data with features that are computed once.

    Args:
        root: The folder that has the data sets' folders.
    """

    def __init__(self, root: Path) -> None:
        encoder = load_encoder(ENCODER)
        self._sources: list[tuple[str, PairDataset, Views, npt.NDArray[np.str_]]] = []
        for name, folder, prefix in SOURCES:
            pairs = load_dataset(name, root / folder)
            everything = np.arange(len(pairs.images), dtype=np.int32)
            inputs = prepare_features(encoder, pairs, images=everything, cache=cache_folder())
            mine = np.array([str(name).startswith(prefix) for name in pairs.images.ids])
            pairs = pairs.where(mine[pairs.image])
            captions, caption_of = np.unique(pairs.captions.astype(str), return_inverse=True)
            images, image_of = np.unique(pairs.image, return_inverse=True)
            raw = Views(
                caption_features(encoder, inputs, captions.astype(object)),
                image_features(encoder, inputs, images.astype(np.int32)),
                caption_of,
                image_of,
            )
            self._sources.append((prefix.rstrip("/") or name, pairs, raw, _classes(pairs)))

    def draw(self, seed: int, number: int) -> CleanSet:
        """Draw a share of the classes of one data set, of those a share of the images, and all or one caption each."""
        random = generator(seed, f"clean-set/real/{number}")
        name, pairs, raw, classes = self._sources[number % len(self._sources)]
        known = np.unique(classes[pairs.image])
        chosen = random.permutation(known)[: max(2, round(random.choice([0.5, 1.0]) * len(known)))]
        here = np.unique(pairs.image)
        images = random.permutation(here[np.isin(classes[here], chosen)])
        share = float(random.choice(SHARES))
        images = images[: min(MOST_IMAGES, max(1, round(share * len(images))))]
        rows = random.permutation(np.flatnonzero(np.isin(pairs.image, images)))
        single = bool(random.random() < 0.25)
        if single:
            rows = rows[np.unique(pairs.image[rows], return_index=True)[1]]
        rows = np.sort(rows)
        captions, caption_of = np.unique(raw.caption_of[rows], return_inverse=True)
        used, image_of = np.unique(raw.image_of[rows], return_inverse=True)
        views = Views.of(raw.text[captions], raw.image[used], caption_of, image_of)
        part = pairs.where(np.isin(np.arange(len(pairs)), rows))
        about = {"data": name, "images": len(used), "classes": len(chosen), "single": single}
        return CleanSet(part, views, about)


def _classes(pairs: PairDataset) -> npt.NDArray[np.str_]:
    """Return the class of each image, shape `(I,)`; where it has none, the folder that it is in."""
    return np.array(
        [
            pairs.classes[code] if code >= 0 else Path(name).parent.name
            for code, name in zip(pairs.images.class_codes, pairs.images.ids, strict=True)
        ]
    )
