"""Describes groups of pairs of a large data set in words, from the captions of a few of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.filter_result import SuspectedGoal
from mmpoison.defenses.filters.passes.groups.findings import ShardGroup
from mmpoison.defenses.filters.passes.groups.shard import Sample, Space
from mmpoison.defenses.filters.suspicious_groups import PlantedSize, Vocabulary
from mmpoison.embedded.source import Shard, ShardError
from mmpoison.records.data_scan import Verdict
from mmpoison.reporting.text import percent
from mmpoison.statistics import Estimate

# -- Puts what a scan found into a verdict, in plain words.


ALIGNED = 0.9
"""From this AUROC on true against shuffled pairs a distance says something of a single pair."""

FEWEST_PAIRS = 200
"""Of fewer pairs no group is said to be unusual: no clean set of that size was measured."""


PLANTED_FROM = 500
"""Into fewer pairs no goals are planted: the smallest would be more than 2% of them."""


@dataclass(frozen=True)
class ScanFinding:
    """What a scan found, for `verdict_of`.

    Attributes:
        pairs: Pairs that were scanned.
        goals: Suspected goals, significant ones alone.
        weak: Groups that clean data show as well.
        planted: What the scan finds of goals that were planted as a test.
        sample: In how many pairs they were planted.
        judge: AUROC of true against shuffled pairs; None where it was not measured.
        level: How often clean sets show a group that is called significant.
        out_of_order: Whether captions and images of some shard do not belong together.
    """

    pairs: int
    goals: Sequence[SuspectedGoal]
    weak: Sequence[SuspectedGoal] = ()
    planted: Sequence[PlantedSize] = ()
    sample: int = 0
    judge: Estimate | None = None
    level: float = 0.01
    out_of_order: bool = False


def verdict_of(found: ScanFinding) -> tuple[Verdict, list[str]]:
    """Return the verdict, and it in words: what was found, how sure that is, and what would have been found."""
    if found.out_of_order:
        return "cannot be decided", [
            "The embeddings of captions and of images are not in the same order in some shards: nothing that is "
            "computed from them means anything. Join them again by id, and scan again."
        ]
    if found.pairs < FEWEST_PAIRS:
        return "cannot be decided", [
            f"{count_of(found.pairs, 'pair')} are too few: look at them yourself. From {FEWEST_PAIRS} pairs on a scan "
            "can say whether a group is unusual."
        ]
    if found.goals:
        pairs = len({int(row) for goal in found.goals for row in goal.rows})
        lines = [
            f"{count_of(len(found.goals), 'suspected goal')}: {count_of(pairs, 'pair')}, "
            f"{percent(pairs / found.pairs)} of all."
        ]
        strongest = min(goal.false_alarms for goal in found.goals)
        lines.append(
            f"How sure: {percent(strongest)} of clean data sets show a group as strong as the strongest one here. A "
            "group can be an honest mistake too: look at the pairs."
        )
        return "possible poisoning", lines
    if not found.planted:
        return "cannot be decided", [
            "No group of pairs is unusual, but what this scan would have found was not measured, so that says little: "
            f"scan at least {PLANTED_FROM} pairs, without --no-planted."
        ]
    if not any(size.found for size in found.planted):
        return "cannot be decided", [
            f"No group of pairs is unusual, but this scan is blind here. {would_have_found(found)}"
        ]
    return "no sign of poisoning", [f"No group of pairs is unusual. {would_have_found(found)}"]


def would_have_found(found: ScanFinding) -> str:
    """Say in a sentence what the scan finds of planted goals, at least one.

    >>> sizes = [PlantedSize(10, 6, 1), PlantedSize(50, 6, 6)]
    >>> would_have_found(ScanFinding(100_000, (), planted=sizes, sample=5000))
    'Would have found, of goals planted into 5,000 of these pairs: 1 of 6 with 10 pairs, 6 of 6 with 50 pairs.'
    """
    sizes = ", ".join(
        f"{one.found} of {one.planted} with {one.pairs} pairs" for one in found.planted
    )
    return f"Would have found, of goals planted into {found.sample:,} of these pairs: {sizes}."


def next_steps(
    verdict: Verdict,
    *,
    keep_file: str | None,
    dropped: int,
    distance: bool,
    singles: bool,
    embedded: bool,
) -> list[str]:
    """Say what to do with the result.

    Args:
        verdict: The verdict.
        keep_file: Name of the file or folder that lists what stays, if it was written.
        dropped: How many pairs are not on it.
        distance: Whether distances of single pairs mean something.
        singles: Whether single pairs are dropped already.
        embedded: Whether embeddings were given.
    """
    if verdict == "cannot be decided":
        return []
    steps = []
    if verdict == "possible poisoning":
        steps.append(
            "Look at the examples below, and at all pairs of a goal in drop.parquet (column group)."
        )
    if dropped and keep_file:
        steps.append(
            f"Train on the pairs that {keep_file} lists: {count_of(dropped, 'pair')} are not on it."
        )
    if distance and not singles:
        steps.append(
            "To be safer, drop single pairs too whose image and caption do not match: run again with --lose 0.02."
        )
    elif not distance:
        known, remedy = (
            ("these embeddings do", "Scan with those of a CLIP.")
            if embedded
            else ("this encoder does", "Scan with --encoder and a CLIP.")
        )
        steps.append(
            f"Single false pairs are not seen: {known} not tell matching captions from others. {remedy}"
        )
    if verdict == "no sign of poisoning":
        steps.append(
            "This is no proof: captions that match their images, and goals smaller than those above, are not seen."
        )
    return steps


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
class PairPlace:
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

    group: ShardGroup
    goal: SuspectedGoal
    examples: tuple[PairPlace, ...]
    captions: tuple[str, ...]


class Captions:
    """Reads captions of some rows, and caches those of the last shards.

    Args:
        shards: The shards, by number.
    """

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._known: dict[int, list[str] | None] = {}

    def of(self, places: Sequence[PairPlace]) -> list[str]:
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
        self._places = [PairPlace(int(sample.shard[i]), int(sample.row[i])) for i in inside]
        self._images = space.reduce(sample.image[inside])
        self._texts = self._captions.of(self._places)

    def __call__(self, group: ShardGroup) -> DescribedGroup:
        """Describe a group."""
        places = [
            PairPlace(number, int(row)) for number, rows in group.rows.items() for row in rows
        ]
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

    def _alike(self, places: Sequence[PairPlace], own: Sequence[str]) -> list[int]:
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
