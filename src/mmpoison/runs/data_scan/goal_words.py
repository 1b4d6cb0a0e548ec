"""Describes groups of pairs of a large data set in words, from the captions of a few of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.filter_result import SuspectedGoal
from mmpoison.defenses.filters.suspicious_groups.passes import Group
from mmpoison.defenses.filters.suspicious_groups.planted import PlantedSize
from mmpoison.defenses.filters.suspicious_groups.shard import Sample, Space
from mmpoison.defenses.filters.suspicious_groups.words import Vocabulary
from mmpoison.defenses.group_levels import LIKELY, LOOK
from mmpoison.embedded.source import Shard, ShardError
from mmpoison.records.data_scan import GroupGrade, Verdict
from mmpoison.reporting.text import percent
from mmpoison.statistics import Estimate

# -- Puts what a scan found into a verdict, in plain words.


ALIGNED = 0.9
"""From this AUROC on true against shuffled pairs a distance says something of a single pair."""

FEWEST_PAIRS = 200
"""Of fewer pairs no group is said to be unusual: no clean set of that size was measured."""


@dataclass(frozen=True)
class ScanFinding:
    """What a scan found, for `verdict_of`.

    Attributes:
        pairs: Pairs that were scanned.
        groups: The groups, the strongest first.
        planted: What the scan finds of goals that were planted as a test; None where none were.
        sample: In how many pairs they were planted.
        judge: AUROC of true against shuffled pairs; None where it was not measured.
        level: A group is called poisoning if at most this share of ordinary clean sets have one as strong.
        out_of_order: Whether captions and images of some shard do not belong together.
    """

    pairs: int
    groups: Sequence[SuspectedGoal]
    planted: Sequence[PlantedSize] | None = None
    sample: int = 0
    judge: Estimate | None = None
    level: float = LIKELY
    out_of_order: bool = False

    def rare(self, level: float) -> list[SuspectedGoal]:
        """Return the groups that at most a share of ordinary clean sets have."""
        return [group for group in self.groups if group.false_alarms <= level]


def grade_of(false_alarms: float, level: float) -> GroupGrade:
    """Return the grade of one group.

    Args:
        false_alarms: Share of ordinary clean sets that have one as strong.
        level: Share up to which it is called poisoning.
    """
    if false_alarms <= level:
        return "poisoning likely"
    return "look at this group" if false_alarms <= LOOK else "as in clean data"


def verdict_of(found: ScanFinding) -> tuple[Verdict, list[str]]:
    """Return the grade, and it in words: what was found, how sure that is, and what would have been found."""
    if found.out_of_order:
        return "cannot be decided", [
            "The embeddings of captions and of images are not in the same order in some shards: nothing that is "
            "computed from them means anything."
        ]
    if found.pairs < FEWEST_PAIRS:
        return "cannot be decided", [
            f"{count_of(found.pairs, 'pair')} are too few: from {FEWEST_PAIRS} on a scan can say whether a group is "
            "unusual."
        ]
    likely, look = found.rare(found.level), found.rare(max(LOOK, found.level))
    if look:
        verdict: Verdict = "poisoning likely" if likely else "look at these groups"
        groups = likely or look
        pairs = len({int(row) for group in groups for row in group.rows})
        one = len(groups) == 1
        kind = "is stronger than" if one else "are stronger than"
        what = (
            f"{kind} clean data explain" if likely else f"{'deserves' if one else 'deserve'} a look"
        )
        return verdict, [
            f"{count_of(len(groups), 'group')} {what}: {count_of(pairs, 'pair')}, {percent(pairs / found.pairs)} of "
            "all.",
            f"The strongest is {groups[0].rarity}: that looks like poison to any method, so look at the pairs.",
        ]
    if found.planted is None:
        return "cannot be decided", [
            "No group stands out, but what this scan would have seen was not measured, so that says little."
        ]
    if not any(size.found for size in found.planted):
        return "cannot be decided", [
            f"No group stands out, but this scan would not see a goal here. {would_have_found(found)}"
        ]
    return "nothing stands out", [
        f"No group is stronger than those of clean data. {would_have_found(found)}"
    ]


def would_have_found(found: ScanFinding) -> str:
    """Say in a sentence what the scan finds of planted goals.

    >>> sizes = [PlantedSize(10, 6, 1), PlantedSize(50, 6, 6)]
    >>> would_have_found(ScanFinding(100_000, (), planted=sizes, sample=5000))
    'Of goals planted into 5,000 of these pairs it saw: 1 of 6 on 10 images, 6 of 6 on 50 images.'
    """
    if not found.planted:
        return "No kind of images is large enough for a goal to be planted as a test."
    sizes = ", ".join(
        f"{one.found} of {one.planted} on {one.images} images" for one in found.planted
    )
    return f"Of goals planted into {found.sample:,} of these pairs it saw: {sizes}."


@dataclass(frozen=True)
class ScanOutput:
    """What a scan has written, for `next_steps`.

    Attributes:
        out: Its folder.
        keep: Name of the file or folder that lists what stays, if it was written.
        dropped: How many pairs are not on it.
        pictures: Whether pairs can be shown with their images (`mmpoison review`).
        aligned: Whether distances of single pairs mean something.
        singles: Whether single pairs are dropped already.
    """

    out: Path
    keep: str | None
    dropped: int
    pictures: bool
    aligned: bool
    singles: bool


def next_steps(found: ScanFinding, verdict: Verdict, written: ScanOutput) -> list[str]:
    """Say what to do with the result, as commands."""
    out = quote(str(written.out))
    look = f"mmpoison review {out}" if written.pictures else f"open {out}/scan.html"
    train = []
    if written.keep:
        dropped = f": {count_of(written.dropped, 'pair')} are not on it" if written.dropped else ""
        train = [f"Train on the pairs that {out}/{written.keep} lists{dropped}."]
    singles = []
    if written.aligned and not written.singles:
        singles = [
            "To drop single pairs too whose image and caption do not match, add --lose 0.02."
        ]
    elif not written.aligned:
        singles = [
            "Single false pairs are not seen, because this model does not distinguish matching captions from others: "
            f"scan again {'with --encoder and a CLIP' if written.pictures else 'embeddings of a CLIP'}."
        ]
    if found.out_of_order:
        return ["Join captions and images again by their ids, and scan again."]
    if found.pairs < FEWEST_PAIRS:
        return [f"Look at all of them yourself: {look}"]
    if verdict == "poisoning likely":
        return [f"Look at the pairs of each group: {look}", *train, *singles]
    if verdict == "look at these groups":
        return [
            f"Look at the pairs of each group: {look}",
            f"If they are false, drop them: scan again with --false-alarms {LOOK:g}. If they are honest, train on all.",
            *train,
            *singles,
        ]
    if verdict == "nothing stands out":
        return [
            *train,
            "This is no proof: captions that match their images, and goals smaller than those planted, are not seen.",
            *singles,
        ]
    again = (
        "without --no-planted" if found.planted is None else "with another --encoder, or more pairs"
    )
    return [f"Scan again {again}.", f"Look at the strongest groups all the same: {look}", *singles]


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

    group: Group
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

    def __call__(self, group: Group) -> DescribedGroup:
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
            found=group.conflicting,
            counted=group.counted,
            expected=group.expected,
            false_alarms=group.false_alarms,
            hardest=group.hardest,
            score=group.strength,
            example_captions=tuple(text for text, _ in frequent.most_common(5)),
            example_images=(),
            crowded=group.crowded,
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
