"""Shards in memory as a source, and the loop over shards that users run, up to the groups that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import SilentProgress
from mmpoison.base.workers import Placement, make_workers
from mmpoison.defenses.scan.groups.passes import COUNTS, Group, find_groups
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.shards import EmbeddedSource
from mmpoison.defenses.scan.read.vector_shard import SAMPLE, AnyVectors, VectorShard
from mmpoison.defenses.scan.scan import ScanSettings, read_shards
from mmpoison.defenses.scan.shard_runner import ShardRunner, file_states, load_part


@dataclass(frozen=True)
class MemoryShard:
    """A shard in memory as one of a source, without ids, captions and own columns."""

    name: str
    text: AnyVectors
    image: AnyVectors
    image_of: npt.NDArray[np.intp] | None
    rows: int
    dimension: int

    def vectors(self) -> tuple[AnyVectors, AnyVectors]:
        return self.text, self.image

    def image_ids(self) -> list[str] | None:
        return None if self.image_of is None else [f"{image:09}" for image in self.image_of]

    def captions(self) -> None:
        return None

    def stored_scores(self) -> None:
        return None


def source_of(shards: Sequence[VectorShard]) -> EmbeddedSource:
    """Make a source; it has one dimension, so captions with fewer get zeros, which change no cosine."""
    made: list[Any] = []
    for one in shards:
        missing = max(0, one.image.shape[1] - one.text.shape[1])
        text = np.pad(one.text, ((0, 0), (0, missing)))
        name, dimension = str(one.number), one.image.shape[1]
        made.append(MemoryShard(name, text, one.image, one.image_of, len(one), dimension))
    return EmbeddedSource("memory", "here", tuple(made), made[0].dimension if made else 0, "row")


@dataclass(frozen=True)
class Found:
    """What a scan found.

    Attributes:
        groups: The strongest first.
        scores: Of each shard.
        everything: Whether all conflicting images were gathered.
        unusable: Rows with a vector that is zero or not finite.
    """

    groups: tuple[Group, ...]
    scores: list[npt.NDArray[np.float32]]
    everything: bool
    unusable: int


def groups_in(source: EmbeddedSource, *, sample: int = SAMPLE, workers: int = 1) -> Found:
    """Scan as `mmpoison.defenses.scan.scan` does, in a folder that is deleted at the end.

    Args:
        source: The source.
        sample: Pairs in the sample.
        workers: Processes; one works in this process.
    """
    settings, progress = ScanSettings(sample=sample), SilentProgress()
    crew = make_workers(Placement(workers, "cpu", 1), len(source.shards), alone_here=True)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        runner = ShardRunner(source, file_states(source), work, crew, progress)
        try:
            _, read = read_shards(runner, source, settings, progress)
            found = find_groups(read)
        finally:
            for worker in crew:
                worker.stop()
        flags = load_part(next(work.glob("flags-*.npz")))
        numbers = sorted(runner.shards)
        unusable = [int(runner.part(COUNTS, n, "counts/images/unusable")[0]) for n in numbers]
        return Found(
            found.groups,
            [found.scores(n) for n in numbers],
            bool((flags["images"] == 1).all()),
            sum(unusable),
        )


def scan_memory(
    shard: VectorShard, seed: int = 0
) -> tuple[tuple[Group, ...], npt.NDArray[np.float32]]:
    """Return the groups and the scores of one shard in memory."""
    read = read_memory(shard, seed)
    found = find_groups(read)
    return found.groups, found.scores(shard.number)
