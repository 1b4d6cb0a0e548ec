"""Describes groups of pairs of a large data set in words, from the captions of a few of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filter_result import SuspectedGoal
from mmpoison.defenses.filters.passes.groups.findings import Group
from mmpoison.defenses.filters.passes.groups.shard import Sample, Space
from mmpoison.defenses.filters.suspicious_groups import Vocabulary
from mmpoison.embedded.source import Shard, ShardError

EXAMPLES = 12
BACKGROUND = 20_000
"""Sampled captions that say which words are usual."""

BACKGROUND_SHARDS = 32
"""Shards whose captions are read for that, evenly spread: a whole table is read for a few captions of it."""

ALIKE_IMAGES = 10
"""Images that are most like those of a group, without being among them: their captions say what the images show."""

MOST_CAPTIONS = 2000
"""Captions of a group that are described."""


@dataclass(frozen=True)
class Place:
    """A pair by its shard and row."""

    shard: int
    row: int


@dataclass(frozen=True)
class DescribedGroup:
    """A group in words.

    Attributes:
        group: The group, by shards and rows.
        goal: It in words; `rows` are numbers through all shards.
        examples: Some of its pairs.
        captions: Their captions; empty where the source has none.
    """

    group: Group
    goal: SuspectedGoal
    examples: tuple[Place, ...]
    captions: tuple[str, ...]


class Captions:
    """Reads captions of some rows, and caches those of the last shards.

    Args:
        shards: The shards, by number.
    """

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._known: dict[int, list[str] | None] = {}

    def of(self, places: Sequence[Place]) -> list[str]:
        """Return captions, empty where there is none or the table cannot be read."""
        order = sorted(range(len(places)), key=lambda i: (places[i].shard, places[i].row))
        found = [""] * len(places)
        for i in order:
            captions = self._of_shard(places[i].shard)
            if captions is not None:
                found[i] = captions[places[i].row]
        return found

    def _of_shard(self, number: int) -> list[str] | None:
        if number not in self._known:
            if len(self._known) >= BACKGROUND_SHARDS:
                self._known.pop(next(iter(self._known)))
            try:
                self._known[number] = self._shards[number].captions()
            except ShardError:
                self._known[number] = None
        return self._known[number]


class Describer:
    """Describes groups.

    Args:
        shards: The shards, by number.
        sample: Sampled pairs of all shards.
        space: Reduces vectors of images.
        starts: Number of the first row of each shard through all shards.
    """

    def __init__(
        self,
        shards: Mapping[int, Shard],
        sample: Sample,
        space: Space,
        starts: Mapping[int, int],
    ) -> None:
        self._shards, self._starts, self._space = shards, starts, space
        self._captions = Captions(shards)
        numbers = sorted(shards)
        step = max(1, -(-len(numbers) // BACKGROUND_SHARDS))
        inside = np.flatnonzero(np.isin(sample.shard, numbers[::step]))[:BACKGROUND]
        self._places = [Place(int(sample.shard[i]), int(sample.row[i])) for i in inside]
        self._images = space.reduce(sample.image[inside])
        self._texts = self._captions.of(self._places)

    def __call__(self, group: Group) -> DescribedGroup:
        """Describe a group."""
        places = [Place(number, int(row)) for number, rows in group.rows.items() for row in rows]
        few = places[:: max(1, -(-len(places) // MOST_CAPTIONS))]
        own = self._captions.of(few)
        alike = self._alike(few, own)
        words = Vocabulary([*self._texts, *own], [1] * len(self._texts) + [0] * len(own))
        first = len(self._texts)
        frequent = Counter(text for text in own if text)
        rows = np.concatenate(
            [self._starts[number] + rows for number, rows in group.rows.items()]
        ).astype(np.intp)
        # one example of each of the most frequent captions, then others
        chosen = sorted(range(len(few)), key=lambda i: -frequent[own[i]])
        chosen = _spread(chosen, own)[:EXAMPLES]
        goal = SuspectedGoal(
            captions_about=words.terms(list(range(first, first + len(own)))),
            images_about=words.terms(alike),
            rows=np.sort(rows),
            images=group.images,
            found=group.found,
            expected=group.expected,
            false_alarms=group.false_alarms,
            score=group.score,
            example_captions=tuple(text for text, _ in frequent.most_common(5)),
            example_images=(),
        )
        return DescribedGroup(
            group, goal, tuple(few[i] for i in chosen), tuple(own[i] for i in chosen)
        )

    def _alike(self, places: Sequence[Place], own: Sequence[str]) -> list[int]:
        """Return the sampled pairs whose images are most like those of a group, without its own."""
        if not len(self._places):
            return []
        vectors = []
        for number in sorted({place.shard for place in places}):
            rows = np.array([place.row for place in places if place.shard == number])
            try:
                image = self._shards[number].vectors()[1]
            except ShardError:
                continue
            vectors.append(self._space.reduce(np.asarray(image[rows])))
        if not vectors:
            return []
        middle: npt.NDArray[np.float32] = np.nanmean(np.concatenate(vectors), axis=0)
        closeness = np.nan_to_num(self._images @ middle, nan=-np.inf)
        mine, said = set(places), set(own)
        order = np.argsort(-closeness, kind="stable")
        found = [
            int(i)
            for i in order[:500]
            if self._places[i] not in mine and self._texts[i] not in said
        ]
        return found[:ALIKE_IMAGES]


def _spread(order: Sequence[int], texts: Sequence[str]) -> list[int]:
    """Return the places with each text once first, then the others."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in order:
        (rest if texts[i] in seen else first).append(i)
        seen.add(texts[i])
    return first + rest
