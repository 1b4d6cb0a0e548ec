"""Tables of pairs that lie nowhere, for attacks, which never open an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.images import PixelStore, Preparation
from mmpoison.pairs.manifest import PoisonManifest


def class_table(
    classes: Mapping[str, tuple[int, int]], *, unlabelled: int = 0, captions: int = 5
) -> PairDataset:
    """Images of classes given as (train, test), and unlabelled train images before them."""
    ids = [f"unlabelled/{n}.jpg" for n in range(unlabelled)]
    labels: list[str | None] = [None] * unlabelled
    splits = ["train"] * unlabelled
    for label, (train, test) in classes.items():
        for number in range(train + test):
            ids.append(f"{label}/{number}.jpg")
            labels.append(label)
            splits.append("train" if number < train else "test")
    image = [n for n in range(len(ids)) for _ in range(captions)]
    texts = [f"{ids[n]} said {place % captions}" for place, n in enumerate(image)]
    return PairDataset.build(ImageTable.build(ids, labels, splits, Path("nowhere")), texts, image)


def table(*rows: tuple[str | None, str, int]) -> PairDataset:
    """Images given as class, split and number of captions."""
    ids = [f"{n}.jpg" for n in range(len(rows))]
    labels, splits = [row[0] for row in rows], [row[1] for row in rows]
    image = [n for n, row in enumerate(rows) for _ in range(row[2])]
    images = ImageTable.build(ids, labels, splits, Path("nowhere"))
    return PairDataset.build(images, [f"caption {n}" for n in range(len(image))], image)


def manifest_of(pairs: PairDataset) -> PoisonManifest:
    """The manifest of a poisoned set."""
    assert pairs.manifest is not None
    return pairs.manifest


def pairs_of(pairs: PairDataset, **chosen: Any) -> Counter[tuple[str, str]]:
    """Image and caption of each pair of a selection."""
    part = pairs.select(**chosen)
    return Counter(zip(part.images.ids[part.image], part.captions, strict=True))


class ToySurrogate:
    """Embeds captions and images near the direction of the class that their text or label names.

    Args:
        classes: Class names; anything else has a direction of its own.
        noise: Length of what is drawn for each caption and image, the class's direction has length one.
        aligned: Whether captions and images of a class share the direction.
        near: Classes that share most of their direction with another one.
    """

    def __init__(
        self,
        classes: Sequence[str] = ("aeroplane", "bird", "sheep", "sofa"),
        *,
        noise: float = 0.5,
        aligned: bool = True,
        near: Mapping[str, str] | None = None,
    ) -> None:
        self.classes, self.noise, self.aligned = classes, noise, aligned
        self.near = dict(near or {})
        self.embedded = 0

    def __call__(self, pairs: PairDataset, images: Any) -> Any:
        table = pairs.images
        return np.stack([self._vector("image", table.ids[i], table.label(int(i))) for i in images])

    def captions(self, captions: Sequence[str]) -> Any:
        labels = [next((c for c in self.classes if c in text), None) for text in captions]
        return np.stack(
            [self._vector("text", text, c) for text, c in zip(captions, labels, strict=True)]
        )

    def _vector(self, side: str, text: str, label: str | None) -> Any:
        self.embedded += 1
        draw = self._draw(f"{side}/{text}")
        if label is None:
            return draw
        stream = "" if self.aligned else side
        centre = self._draw(f"{stream}/{label}")
        if label in self.near:
            centre = self._draw(f"{stream}/{self.near[label]}") + 0.3 * centre
        return centre / np.linalg.norm(centre) + self.noise * draw / np.linalg.norm(draw)

    def _draw(self, stream: str) -> Any:
        return generator(0, f"toy/{stream}").standard_normal(24)


class PixelToy(ToySurrogate):
    """A surrogate of a few numbers: a linear map of the pixels, and the length taken out."""

    SIZE = 16
    name = "pixel-toy"
    identity: Mapping[str, Any] = MappingProxyType({"weights": "0123456789abcdef"})
    preparation = Preparation(SIZE)
    logit_scale = 10.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        count = self.SIZE**2 * 3
        self._map = generator(0, "toy/map").standard_normal((24, count)) / np.sqrt(count)

    def __call__(self, pairs: PairDataset, images: Any) -> Any:
        return self.differentiate(self.pixels(pairs, images))[0]

    def pixels(self, pairs: PairDataset, images: Any) -> Any:
        return PixelStore.decode(pairs, self.SIZE, indices=np.unique(images)).take(images)

    def differentiate(self, pixels: Any) -> Any:
        centred = (np.asarray(pixels, float) / 127.5 - 1).reshape(len(pixels), -1)
        outputs = centred @ self._map.T
        length = np.linalg.norm(outputs, axis=1, keepdims=True)
        vectors = outputs / length

        def pull_back(gradient: Any) -> Any:
            along = (gradient * vectors).sum(axis=1, keepdims=True) * vectors
            by_pixels = ((gradient - along) / length) @ self._map / 127.5
            return by_pixels.reshape(np.shape(pixels)).astype(np.float32)

        return vectors.astype(np.float32), pull_back
