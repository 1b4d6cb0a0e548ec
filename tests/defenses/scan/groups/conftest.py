"""Small data sets in shards, with a planted goal."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.defenses.scan.groups.items import Reduced, reduce_shard
from mmpoison.defenses.scan.read.vector_shard import Space, VectorShard


@dataclass(frozen=True)
class Made:
    """Pairs with topics; the captions of the first topic are on some images of the second."""

    text: npt.NDArray[np.float16]
    image: npt.NDArray[np.float16]
    image_of: npt.NDArray[np.intp]
    bad: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.text)

    def shards(self, count: int) -> list[VectorShard]:
        """Cut into shards, each with whole images."""
        images = np.linspace(0, len(self.image), count + 1).astype(int)
        cuts = np.searchsorted(self.image_of, images)
        single = len(self.image) == len(self)
        return [
            VectorShard(
                number,
                self.text[start:stop],
                self.image[self.image_of[start:stop]],
                None if single else self.image_of[start:stop],
            )
            for number, (start, stop) in enumerate(pairwise(cuts.tolist()))
        ]

    def reduced(self, seed: int = 0) -> Reduced:
        """All as one shard in the reduced space."""
        shard = VectorShard(0, self.text, self.image[self.image_of], self.image_of)
        return reduce_shard(shard, Space.fit(self.text), Space.fit(self.image), seed)


def made(seed: int, *, captions: int = 1, images: int = 3000, poison: int = 30) -> Made:
    rng = np.random.default_rng(seed)
    topic = rng.integers(25, size=images)
    image_of = np.repeat(np.arange(images), captions)
    said = topic[image_of]
    astray = rng.random(len(said)) < 0.05
    said[astray] = rng.integers(25, size=int(astray.sum()))
    image = rng.normal(size=(25, 96))[topic] + 0.7 * rng.normal(size=(images, 96))
    text = rng.normal(size=(25, 80))[said] + 0.7 * rng.normal(size=(len(said), 80))
    target = np.flatnonzero(topic[image_of] == 1)[: poison * captions : captions]
    text[target] = text[np.flatnonzero(said == 0)[: len(target)]] + 0.1 * rng.normal(
        size=(len(target), 80)
    )
    bad = np.zeros(len(said), dtype=bool)
    bad[target] = True
    return Made(text.astype(np.float16), image.astype(np.float16), image_of, bad)


@pytest.fixture(scope="session")
def one_caption() -> Made:
    return made(0)


@pytest.fixture(scope="session")
def three_captions() -> Made:
    return made(1, captions=3, images=1200, poison=40)


def saved_and_read(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Write to a file and read it without pickle."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as read:
        return dict(read)
