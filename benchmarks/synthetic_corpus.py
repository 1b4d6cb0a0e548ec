"""Makes embedded pairs shard by shard from a seed, for benchmarks and tests of the passes over shards.

Every shard is made from the seed and its own number, so that any part can be made again, in any order, by any process.
A pair has a topic. Topics have frequencies that fall like a power of their rank, and directions in a space of few
dimensions with a falling spectrum, as embeddings of photos and texts have. Caption and image share the topic and a
latent vector of their own pair; each has noise besides. Captions and images have an offset each (the modality gap). A
few pairs are astray: their caption is of another topic, of any, or of the favourites of their image's topic. All
vectors are float16 of unit length.

Poison: with the poisoning rate a pair becomes a caption of the original topic with an image of the target topic of one
of the goals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.seeding import generator

Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """A synthetic set of embedded pairs.

    Attributes:
        pairs: Number of pairs.
        rate: Poisoning rate, a share of the pairs.
        goals: Number of goals that the poison is spread over.
        seed: Of everything.
        shard_pairs: Pairs in a shard; the last may have fewer.
        dimensions: Of the vectors.
        topics: Number of topics.
        astray: Share of clean pairs whose caption is of another topic.
        favourites: Whether each topic's captions that are astray come from a few favourite topics.
        shared: Size of what a caption and its image share within a topic; topics have size 1.
        own: Size of the noise of each side within the space of topics.
        noise: Size of the noise in all dimensions.
        gap: Size of the offsets of the two sides.
    """

    pairs: int
    rate: float = 0.0
    goals: int = 1
    seed: int = 0
    shard_pairs: int = 50_000
    dimensions: int = 512
    topics: int = 300
    astray: float = 0.03
    favourites: bool = False
    shared: float = 0.5
    own: float = 0.4
    noise: float = 0.3
    gap: float = 0.8

    @property
    def sizes(self) -> list[int]:
        """Pairs in each shard."""
        full, rest = divmod(self.pairs, self.shard_pairs)
        return [self.shard_pairs] * full + [rest] * (rest > 0)

    @cached_property
    def _world(self) -> dict[str, Any]:
        random = generator(self.seed, "synthetic-corpus")
        latent = min(64, self.dimensions)
        spectrum = np.arange(1, latent + 1) ** -0.25
        spectrum /= np.linalg.norm(spectrum)
        axes = np.linalg.qr(random.normal(size=(self.dimensions, self.dimensions)))[0]
        often = np.arange(1, self.topics + 1) ** -0.7
        table = random.dirichlet([0.05] * self.topics, self.topics)
        # goals are between topics of usual frequency
        usual = random.permutation(np.arange(self.topics // 4, self.topics * 3 // 4))
        return {
            "spectrum": spectrum.astype(np.float32),
            "axes": axes[:, :latent].T.astype(np.float32),
            "gaps": (self.gap * axes[:, -2:].T).astype(np.float32),
            "topics": (random.normal(size=(self.topics, latent)) * spectrum).astype(np.float32),
            "often": often / often.sum(),
            "favourites": table.cumsum(axis=1),
            "goals": usual[: 2 * self.goals].reshape(self.goals, 2),
        }

    def shard(self, number: int) -> tuple[Half, Half, npt.NDArray[np.int16]]:
        """Make a shard.

        Returns:
            Vectors of the captions and of their images, float16 `(n, d)`, and the goal of each pair, -1 for clean ones.
        """
        world, n = self._world, self.sizes[number]
        random = generator(self.seed, f"synthetic-corpus/{number}")
        image_topic = random.choice(self.topics, n, p=world["often"])
        text_topic = image_topic.copy()
        astray = np.flatnonzero(random.random(n) < self.astray)
        if self.favourites:
            chances = world["favourites"][image_topic[astray]]
            drawn = (chances < random.random((len(astray), 1))).sum(axis=1)
            text_topic[astray] = np.minimum(drawn, self.topics - 1)
        else:
            text_topic[astray] = random.choice(self.topics, len(astray), p=world["often"])
        goal = np.full(n, -1, dtype=np.int16)
        bad = np.flatnonzero(random.random(n) < self.rate)
        goal[bad] = random.integers(self.goals, size=len(bad))
        text_topic[bad], image_topic[bad] = world["goals"][goal[bad]].T
        common = self._latent(random, n)
        apart = common.copy()
        other = np.concatenate([astray, bad])
        apart[other] = self._latent(random, len(other))
        sides = []
        for topic, latent, gap in (
            (text_topic, apart, world["gaps"][0]),
            (image_topic, common, world["gaps"][1]),
        ):
            inside = world["topics"][topic] + self.shared * latent
            inside += self.own * self._latent(random, n)
            vectors = random.standard_normal((n, self.dimensions), dtype=np.float32)
            vectors *= self.noise / np.sqrt(self.dimensions)
            vectors += inside @ world["axes"] + gap
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            sides.append(vectors.astype(np.float16))
        return sides[0], sides[1], goal

    def _latent(self, random: np.random.Generator, n: int) -> Floats:
        spectrum: Floats = self._world["spectrum"]
        return np.asarray(random.standard_normal((n, len(spectrum)), dtype=np.float32) * spectrum)
