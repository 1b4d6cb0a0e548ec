"""Reads pairs in shards, pass by pass, for every method to score. A data set in memory is one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import ProgressFor, silent
from mmpoison.defenses.scan.read.vector_shard import (
    SAMPLE,
    Arrays,
    Sample,
    SamplePlan,
    Values,
    Vectors,
    VectorShard,
    distances,
    part_of,
    prefixed,
    sample_part,
)
from mmpoison.statistics import Estimate, true_pair_auroc

State = Callable[[], Arrays]
"""Returns the state of an earlier pass; it is sent to workers."""

READ = "1-read"
"""Name of the pass that reads the pairs."""


Earlier = Callable[[str, int, Any], Arrays]
"""`earlier(name, number, shard)` returns an earlier pass's result for a shard; it is sent to workers."""


class PassRunner:
    """Runs passes over shards in this process. `ShardRunner` uses workers, and files between the passes.

    Args:
        shards: The shards, in order of their numbers.

    Attributes:
        shards: The readable shards, by number.
    """

    def __init__(self, shards: Mapping[int, Any]) -> None:
        self.shards = dict(shards)
        self._found: dict[tuple[str, int], Arrays] = {}

    @property
    def earlier(self) -> Earlier:
        """Reads results of earlier passes."""
        return lambda name, number, shard: self._found[name, number]

    def run(self, name: str, title: str, compute: Callable[[Any, int], Arrays]) -> None:
        """Run a pass over all shards.

        Args:
            name: Name of the pass.
            title: Title shown to the user.
            compute: Computes the result of a shard, given the shard and its number, which seeds random choices.
        """
        for number, shard in self.shards.items():
            self._found[name, number] = compute(shard, number)

    def part(self, name: str, number: int, *arrays: str) -> tuple[npt.NDArray[Any], ...]:
        """Read arrays of one shard's result."""
        return tuple(self._found[name, number][one] for one in arrays)

    def whole_parts(self, name: str, only: str = "") -> Iterator[tuple[int, Arrays]]:
        """Read the results of a pass in shard order: all arrays, or those whose names begin with `only`."""
        for number in sorted(self.shards):
            yield number, self._found[name, number]

    def state(self, name: str, arrays: Arrays) -> State:
        """Store results of passes for later passes."""
        return lambda: arrays


def vectors_of(shard: Any, number: int) -> VectorShard:
    """Return the vectors of a shard, and the image of each row.

    Args:
        shard: A shard in memory, or of a source of embeddings (`mmpoison.defenses.scan.read.shards.Shard`).
        number: Its position in the source.

    Raises:
        ShardError: If the data cannot be read.
    """
    if isinstance(shard, VectorShard):
        return shard
    text, image = shard.vectors()
    images = shard.image_ids()
    image_of = None if images is None else np.unique(images, return_inverse=True)[1]
    return VectorShard(number, text, image, image_of)


@dataclass(frozen=True)
class ReadPass:
    """Computes the distances of a shard's pairs, and draws its part of the sample.

    Attributes:
        plan: The plan of the sample.
    """

    plan: SamplePlan

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard: `distance` (NaN if undefined) and the sample."""
        vectors = vectors_of(shard, number)
        found = np.full(len(vectors), np.nan, dtype=np.float32)
        if vectors.text.shape == vectors.image.shape:
            found = distances(vectors.text, vectors.image)
        return {
            **prefixed("sample", sample_part(vectors, self.plan).to_arrays()),
            "distance": found,
        }


@dataclass(frozen=True)
class ReadPairs:
    """Pairs read by `ReadPass`, for every method to score.

    Attributes:
        runner: Runs passes over the shards.
        sample: A random sample of the pairs.
        seed: Seed for all random choices.
        progress: Returns a progress callback for a named step.
    """

    runner: PassRunner
    sample: Sample
    seed: int = 0
    progress: ProgressFor = silent

    @cached_property
    def starts(self) -> Mapping[int, int]:
        """First row number of each shard, counted through all shards."""
        numbers = sorted(self.runner.shards)
        ends = np.cumsum([0, *(self.runner.shards[number].rows for number in numbers)])
        return dict(zip(numbers, ends.tolist(), strict=False))

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return sum(shard.rows for shard in self.runner.shards.values())

    @cached_property
    def units(self) -> tuple[Vectors, Vectors]:
        """Unit vectors of captions and images in a small sample; empty if distances are meaningless."""
        few = self.sample.first(FEW_UNITS)
        if few.text.shape != few.image.shape:
            return np.empty((0, 1), np.float32), np.empty((0, 1), np.float32)
        sides = [np.asarray(side, dtype=np.float64) for side in (few.text, few.image)]
        text, image = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        return text.astype(np.float32), image.astype(np.float32)

    @cached_property
    def judge(self) -> Estimate | None:
        """Probability that a caption is nearer to its own image than to a random one; None if unknown."""
        return true_pair_auroc(*self.units)

    def distance(self, number: int) -> Values:
        """Return the cosine distance of each pair of a shard, shape `(n,)`."""
        return self.runner.part(READ, number, "distance")[0]

    def vectors(self) -> VectorShard:
        """Read all shards into a single shard in memory, with captions if known."""
        return join_shards([shard for _, shard in sorted(self.runner.shards.items())])


def join_shards(shards: Sequence[Any]) -> VectorShard:
    """Read shards into a single shard in memory, with captions if known."""
    read = [vectors_of(shard, number) for number, shard in enumerate(shards)]
    texts = [shard.captions() for shard in shards]
    owners, images = [], 0
    for one in read:
        owners.append(np.unique(one.owner, return_inverse=True)[1] + images)
        images = int(owners[-1].max(initial=images - 1)) + 1
    return VectorShard(
        0,
        np.concatenate([one.text for one in read]),
        np.concatenate([one.image for one in read]),
        np.concatenate(owners),
        None
        if None in texts
        else np.array([text for some in texts for text in some or ()], dtype=object),
    )


FEW_UNITS = 2048
"""Number of sampled pairs compared with random pairs."""


def read_pairs(
    runner: PassRunner,
    compute: Callable[[Any, int], Arrays],
    seed: int = 0,
    progress: ProgressFor = silent,
) -> ReadPairs:
    """Run the first pass, which reads all shards.

    Args:
        runner: Runs passes over the shards.
        compute: A `ReadPass`, or a function that returns its result and more.
        seed: Seed for all random choices.
        progress: Returns a progress callback for a named step.

    Raises:
        InputError: If no shard is readable, or embeddings have different dimensions.
    """
    runner.run(READ, "reading embeddings", compute)
    parts = runner.whole_parts(READ, only="sample/")
    samples = [Sample.from_arrays(part_of("sample", part)) for _, part in parts]
    return ReadPairs(runner, Sample.joined(samples), seed, progress)


def read_memory(
    shard: VectorShard, seed: int = 0, progress: ProgressFor = silent, *, sample: int = SAMPLE
) -> ReadPairs:
    """Read pairs in memory, as one shard.

    Args:
        shard: All pairs.
        seed: Seed for all random choices.
        progress: Returns a progress callback for a named step.
        sample: Pairs in the sample.
    """
    plan = SamplePlan(max(1, len(shard)), sample, seed)
    return read_pairs(PassRunner({shard.number: shard}), ReadPass(plan), seed, progress)
