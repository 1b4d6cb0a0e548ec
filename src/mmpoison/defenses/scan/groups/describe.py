"""Describes groups in words: what distinguishes their captions, and what their images show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmpoison.base.text import count_of, percent
from mmpoison.defenses.scan.groups.levels import RAREST
from mmpoison.defenses.scan.groups.passes import Group
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import Index, Space
from mmpoison.errors import InputError

EXAMPLES = 12
BACKGROUND = 20_000
"""Number of sampled captions that measure usual word frequencies."""

BACKGROUND_SHARDS = 32
"""Number of shards, evenly spread, from which those captions are read: even a few captions require a whole table."""

ALIKE_IMAGES = 10
"""Number of images most similar to a group's but outside it, whose captions tell what the images show."""

MOST_CAPTIONS = 2000
"""Maximum number of captions of a group used for its description."""

Place = tuple[int, int]

_MISTAKES = (
    "images that show both things, described by only one",
    "two kinds that annotators confuse",
    "images that the encoder confuses (then another encoder does not show the group)",
    "misplaced captions, for example after a shift of rows",
)


@dataclass(frozen=True)
class DescribedGroup:
    """A group in words: captions of one kind on images of another kind, more than clean data explain.

    Attributes:
        group: The group, by shards and rows.
        captions_about: Words that distinguish its captions.
        images_about: Words that distinguish the captions of similar images.
        rows: Its pairs, as sorted row numbers through all shards.
        examples: Some of its pairs, by shard and row.
        captions: Captions of the examples; empty if the source has none.
    """

    group: Group
    captions_about: tuple[str, ...]
    images_about: tuple[str, ...]
    rows: Index
    examples: tuple[Place, ...]
    captions: tuple[str, ...]

    @property
    def why(self) -> str:
        """The reason for suspicion, as a clause."""
        group = self.group
        if group.learned:
            return (
                f"the model, unlike the reference, finds {group.conflicting:,} of {group.counted:,} images by these "
                f"captions; for images of any kind, {group.expected:.0f} would be expected"
            )
        what = "captions on one image" if group.crowded else "images"
        return (
            f"at its centre, {group.conflicting:,} of {group.counted:,} {what} conflict with the captions of similar "
            f"images; {group.expected:.0f} would be expected from similar captions and images elsewhere in the data"
        )

    @property
    def other_explanations(self) -> tuple[str, ...]:
        """Other possible explanations, the likeliest first."""
        if self.group.crowded:
            return ("a placeholder or a popular image posted with many texts", _MISTAKES[-1])
        return _MISTAKES

    @property
    def rarity(self) -> str:
        """How often clean data contain a group this strong, as a clause."""
        if self.group.hardest is None:
            return f"at most {percent(self.group.false_alarms)} of ordinary clean sets have a group this strong"
        return (
            f"{_rarely(self.group.false_alarms)} of ordinary clean sets have a group this strong, and "
            f"{_rarely(self.group.hardest)} of sets with systematic mislabelling"
        )

    def __str__(self) -> str:
        captions, images = (
            ", ".join(words) or "?" for words in (self.captions_about, self.images_about)
        )
        size = f"{count_of(len(self.rows), 'pair')} on {count_of(self.group.images, 'image')}"
        return f"captions about {captions} paired with images of {images}: {size} ({self.rarity})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file."""
        return {
            "sentence": str(self),
            "captions_about": list(self.captions_about),
            "images_about": list(self.images_about),
            "pairs": len(self.rows),
            "images": self.group.images,
            "false_alarms": self.group.false_alarms,
            "false_alarms_hardest": self.group.hardest,
            "why": self.why,
            "other_explanations": list(self.other_explanations),
            "score": round(self.group.strength, 2),
            "conflicting": self.group.conflicting,
            "expected": round(self.group.expected, 2),
            "example_captions": list(dict.fromkeys(filter(None, self.captions)))[:5],
        }


def _rarely(share: float) -> str:
    return f"at most {percent(share)}" if share < 1.01 * RAREST else percent(share)


def describe_groups(
    read: ReadPairs,
    groups: Sequence[Group],
    space: Space,
) -> tuple[DescribedGroup, ...]:
    """Describe groups.

    Args:
        read: The pairs.
        groups: The groups.
        space: The space of images, which reduces their vectors.
    """
    if not groups:
        return ()
    report = read.progress("describing groups")
    report(0, len(groups))
    describe = _Describer(read, space)
    described = []
    for done, group in enumerate(groups, 1):
        described.append(describe(group))
        report(done, len(groups))
    return tuple(described)


class _Describer:
    """Describes groups with the help of a background sample."""

    def __init__(self, read: ReadPairs, space: Space) -> None:
        self._shards, self._starts = read.runner.shards, read.starts
        self._captions_of = lru_cache(BACKGROUND_SHARDS)(self._read_captions)
        sample, numbers = read.sample, sorted(self._shards)
        step = max(1, -(-len(numbers) // BACKGROUND_SHARDS))
        inside = np.flatnonzero(np.isin(sample.shard, numbers[::step]))[:BACKGROUND]
        self._places = _places(sample.shard[inside], sample.row[inside])
        self._images = space.reduce(sample.image[inside])
        self._texts = self._captions(self._places)

    def _captions(self, places: Sequence[Place]) -> list[str]:
        """Return captions; empty if there is none or the table is unreadable."""
        found = [""] * len(places)
        for i in sorted(range(len(places)), key=lambda i: places[i]):
            shard, row = places[i]
            if (captions := self._captions_of(shard)) is not None:
                found[i] = str(captions[row])
        return found

    def _read_captions(self, shard: int) -> list[str] | None:
        try:
            captions: list[str] | None = self._shards[shard].captions()
        except InputError:
            return None
        return captions

    def __call__(self, group: Group) -> DescribedGroup:
        places = [
            place for n, rows in group.rows.items() for place in _places([n] * len(rows), rows)
        ]
        few = places[:: max(1, -(-len(places) // MOST_CAPTIONS))]
        own = self._captions(few)
        first = len(self._texts)
        words = Vocabulary([*self._texts, *own], [1] * first + [0] * len(own))
        frequent = Counter(text for text in own if text)
        # first one example of each of the most frequent captions
        chosen = sorted(range(len(few)), key=lambda i: -frequent[own[i]])
        chosen = _spread(chosen, own)[:EXAMPLES]
        return DescribedGroup(
            group,
            captions_about=words.terms(list(range(first, first + len(own)))),
            images_about=words.terms(self._alike(group, set(few), set(own))),
            rows=np.sort([self._starts[shard] + row for shard, row in places]).astype(np.intp),
            examples=tuple(few[i] for i in chosen),
            captions=tuple(own[i] for i in chosen),
        )

    def _alike(self, group: Group, mine: set[Place], said: set[str]) -> list[int]:
        """Return sampled pairs outside a group whose images are most similar to the group's."""
        closeness = np.nan_to_num(self._images @ group.image, nan=-np.inf)
        # keep captions of one image in order: the last bits of its products differ between processors
        order = np.argsort(-closeness.round(4), kind="stable")[:500].tolist()
        found = [i for i in order if self._places[i] not in mine and self._texts[i] not in said]
        return found[:ALIKE_IMAGES]


def _places(shard: Iterable[int], row: Iterable[int]) -> list[Place]:
    return [(int(one), int(other)) for one, other in zip(shard, row, strict=True)]


def _spread(order: Sequence[int], texts: Sequence[str]) -> list[int]:
    """Reorder positions: the first occurrence of each text first, then repetitions."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in order:
        (rest if texts[i] in seen else first).append(i)
        seen.add(texts[i])
    return first + rest


TERMS = 4
FEWEST = 0.1
"""A term must occur in at least this share of the described captions."""


class Vocabulary:
    """An index of the words in a data set's captions.

    Args:
        captions: The distinct captions, shape `(U,)`.
        counts: Number of pairs with each caption, shape `(U,)`.
    """

    def __init__(self, captions: Sequence[str], counts: Sequence[int]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(
            binary=True, stop_words="english", token_pattern=r"(?u)\b\w[\w'-]+\b"
        )
        try:
            self._has = vectorizer.fit_transform(captions).tocsr()
            self._words = vectorizer.get_feature_names_out()
        except ValueError:  # no caption contains a word
            self._words = np.empty(0, dtype=object)
            return
        weights = np.asarray(counts, dtype=np.float64)
        self._usual = (self._has.T @ weights) / max(weights.sum(), 1.0)

    def terms(self, captions: Sequence[int]) -> tuple[str, ...]:
        """Return words that distinguish these captions from all others, the most distinctive first.

        Args:
            captions: Indices of the captions, with repetition.
        """
        if not len(captions) or not len(self._words):
            return ()
        share = np.asarray(self._has[np.asarray(captions)].mean(axis=0)).ravel()
        # information gained by knowing the group: words common in it and rare elsewhere
        gain = share * np.log((share + 1e-3) / (self._usual + 1e-3))
        gain[share < FEWEST] = 0
        best = np.argsort(-gain, kind="stable")[:TERMS]
        return tuple(str(self._words[word]) for word in best if gain[word] > 0)
