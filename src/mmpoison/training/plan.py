"""Plans which pairs each step sees; only the seed and the number of the step decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.models.inputs import Rows
from mmpoison.pairs.table import BoolArray
from mmpoison.training.settings import TrainingSettings


@dataclass
class Plan:
    """The steps of a training.

    Args:
        pairs: How many pairs there are.
        settings: Batch size and length.
        seed: Seed of the run.
        processes: A batch smaller than that is left out, and one pair has nothing to be contrasted with.
        skip: Pairs that no step sees, shape `(pairs,)`; the others keep the order that all of them would have.
    """

    pairs: int
    settings: TrainingSettings
    seed: int
    processes: int = 1
    skip: BoolArray | None = None
    _epoch: int = -1
    _order: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @cached_property
    def kept(self) -> Rows:
        """The pairs that are not skipped, sorted; every step asks how many they are."""
        rows = np.arange(self.pairs, dtype=np.int64)
        return rows if self.skip is None else rows[~self.skip]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one pass."""
        whole, rest = divmod(len(self.kept), self.settings.batch_size)
        return whole + (rest >= max(2, self.processes))

    @property
    def steps(self) -> int:
        """Steps in all."""
        if self.settings.trainable == "none":
            return 0
        total = self.settings.epochs * self.steps_per_epoch
        return total if self.settings.max_steps is None else min(total, self.settings.max_steps)

    def batch(self, step: int) -> Rows:
        """Return the pairs of a step (0-based), shape `(n,)`."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            stream = generator(self.seed, f"training/order/{epoch}")
            order = stream.permutation(self.pairs)
            self._order = order if self.skip is None else order[~self.skip[order]]
            self._epoch = epoch
        start = number * self.settings.batch_size
        return self._order[start : start + self.settings.batch_size]

    def seen(self) -> Rows:
        """List all pairs that any step sees, sorted; of a whole epoch also those that a last batch leaves out.

        Which pairs those are differs between runs, and runs on the same pairs shall share outputs of frozen encoders.
        """
        if self.steps >= self.steps_per_epoch > 0:
            return self.kept
        batches = [self.batch(step) for step in range(self.steps)]
        return np.unique(np.concatenate(batches)) if batches else np.empty(0, dtype=np.int64)

    def chunks(self, share: Rows, shares: list[int]) -> list[Rows]:
        """Split this process's share of a batch in chunks; every process has the same number of them."""
        size = self.settings.chunk_size or max(shares)
        count = min(math.ceil(max(shares) / size), min(shares))
        return list(np.array_split(share, count))
