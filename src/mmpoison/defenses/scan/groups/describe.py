"""Describes groups in words: what their captions say that others do not, and what their images show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.scan.groups.levels import RAREST
from mmpoison.defenses.scan.groups.passes import Group
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import Index, Space
from mmpoison.errors import InputError
from mmpoison.reporting.text import percent

EXAMPLES = 12
BACKGROUND = 20_000
"""Sampled captions that say which words are usual."""

BACKGROUND_SHARDS = 32
"""Shards whose captions are read for that, evenly spread: a whole table is read for a few captions of it."""

ALIKE_IMAGES = 10
"""Images that are most like those of a group, without being among them: their captions say what the images show."""

MOST_CAPTIONS = 2000
"""Captions of a group that are described."""

Place = tuple[int, int]

_MISTAKES = (
    "images that show both things, described by only one",
    "two kinds that annotators confuse",
    "images that the encoder confuses (then another encoder does not show the group)",
    "misplaced captions, for example after a shift of rows",
)


@dataclass(frozen=True)
class DescribedGroup:
    """A group in words: captions of one kind on images of another kind, more often than clean data explain.

    Attributes:
        group: The group, by shards and rows.
        captions_about: Words that set its captions apart from the others.
        images_about: Words that set the captions of similar images apart.
        rows: Its pairs, as numbers of rows through all shards, sorted.
        examples: Some of its pairs, by shard and row.
        captions: Their captions; empty where the source has none.
    """

    group: Group
    captions_about: tuple[str, ...]
    images_about: tuple[str, ...]
    rows: Index
    examples: tuple[Place, ...]
    captions: tuple[str, ...]

    @property
    def why(self) -> str:
        """What is suspicious about it, as a clause."""
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
        """What else than poison could explain it, the likeliest first."""
        if self.group.crowded:
            return ("a placeholder or a popular image posted with many texts", _MISTAKES[-1])
        return _MISTAKES

    @property
    def rarity(self) -> str:
        """How often clean data show a group as strong, as a clause."""
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
        space: Reduces vectors of images.
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
    """Describes groups by a part of the sample."""

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
        """Return captions, empty where there is none or the table cannot be read."""
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
        # one example of each of the most frequent captions, then others
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
        """Return the sampled pairs whose images are most like those of a group, without its own."""
        closeness = np.nan_to_num(self._images @ group.image, nan=-np.inf)
        # captions of one image in their order: the last bits of its products differ by processor
        order = np.argsort(-closeness.round(4), kind="stable")[:500].tolist()
        found = [i for i in order if self._places[i] not in mine and self._texts[i] not in said]
        return found[:ALIKE_IMAGES]


def _places(shard: Iterable[int], row: Iterable[int]) -> list[Place]:
    return [(int(one), int(other)) for one, other in zip(shard, row, strict=True)]


def _spread(order: Sequence[int], texts: Sequence[str]) -> list[int]:
    """Return the places with each text once first, then the others."""
    seen: set[str] = set()
    first: list[int] = []
    rest: list[int] = []
    for i in order:
        (rest if texts[i] in seen else first).append(i)
        seen.add(texts[i])
    return first + rest


TERMS = 4
FEWEST = 0.1
"""A term occurs in at least this share of the captions it describes."""


class Vocabulary:
    """An index of the words in each caption of a data set.

    Args:
        captions: The distinct captions, shape `(U,)`.
        counts: How many pairs have each, shape `(U,)`.
    """

    def __init__(self, captions: Sequence[str], counts: Sequence[int]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(
            binary=True, stop_words="english", token_pattern=r"(?u)\b\w[\w'-]+\b"
        )
        try:
            self._has = vectorizer.fit_transform(captions).tocsr()
            self._words = vectorizer.get_feature_names_out()
        except ValueError:  # no caption has a word
            self._words = np.empty(0, dtype=object)
            return
        weights = np.asarray(counts, dtype=np.float64)
        self._usual = (self._has.T @ weights) / max(weights.sum(), 1.0)

    def terms(self, captions: Sequence[int]) -> tuple[str, ...]:
        """Return the words that distinguish captions from all others, the most distinctive first.

        Args:
            captions: Which captions, as indices, with repetition.
        """
        if not len(captions) or not len(self._words):
            return ()
        share = np.asarray(self._has[np.asarray(captions)].mean(axis=0)).ravel()
        # the part that the group adds to the information in a caption: common in it, rare elsewhere
        gain = share * np.log((share + 1e-3) / (self._usual + 1e-3))
        gain[share < FEWEST] = 0
        best = np.argsort(-gain, kind="stable")[:TERMS]
        return tuple(str(self._words[word]) for word in best if gain[word] > 0)
