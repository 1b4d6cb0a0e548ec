"""Pre-training filters: their base class, and the two of this package.

`relevance-filter` is the paper's: it drops pairs whose image and caption do not match under another encoder.
`suspicious-groups` drops groups of pairs that put captions of one kind on images of another kind.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from pydantic import Field

from mmpoison.base.options import options
from mmpoison.base.text import count_of
from mmpoison.defenses.catalogue import (
    CUT_OPTIONS,
    DEFENSES,
    AlarmsOption,
    Cut,
    DefenseKind,
    LossOption,
    ThresholdOption,
    build_defense,
)
from mmpoison.defenses.scan.cut.thresholds import Values
from mmpoison.defenses.scan.groups.fit import GroupModel
from mmpoison.defenses.scan.groups.levels import LIKELY
from mmpoison.defenses.scan.groups.passes import Group, find_groups
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import DISTANCE, Space
from mmpoison.errors import InputError


@dataclass(frozen=True)
class PairScores:
    """A method's scores and groups, before the cut.

    Attributes:
        of: Returns the pair scores of a shard, given its number; shape `(n,)`. Larger is more suspicious; NaN means
            that a pair cannot be judged.
        groups: Suspicious groups, the strongest first, for methods that find groups.
        model: The model that found the groups, if test goals can be planted.
        space: The image space, if there is no model.
        facts: Further facts about the method, for reports.
        notes: Notes for the user, one line each.
        name: Meaning of the score, if it differs from the method's `score_name`.
    """

    of: Callable[[int], Values]
    groups: tuple[Group, ...] | None = None
    model: GroupModel | None = None
    space: Space | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = ""

    @classmethod
    def split(cls, scores: Values, read: ReadPairs, **more: Any) -> PairScores:
        """Split the scores of all pairs, shape `(N,)`, by shard. `more` sets other attributes."""
        starts, shards = read.starts, read.runner.shards
        return cls(lambda n: scores[starts[n] : starts[n] + shards[n].rows], **more)


@options
class ScoreFilter(ABC):
    """A pre-training defence: scores pairs before training, and drops those above a cut.

    Subclasses implement `score`. `mmpoison.scan` applies it to data of any size; `mmpoison.defenses.filter_pairs`,
    recipes and the matrix apply it to sets in memory in the same way.

    Attributes:
        joint: Whether it needs joint embeddings, or the outputs of the two trunks.
        needs_aligned_judge: Whether it compares captions with images, so that the judge must embed both in one space.
        uses_trusted: Whether scores of other, clean pairs are comparable with those of the judged pairs. Then
            `clean_loss` is measured on them; otherwise it is a share of the judged pairs.
        finds_groups: Whether it finds suspicious groups, which `false_alarms` requires.
        score_name: Meaning of the score, for figures.
        score_range: Range of the scores; thresholds outside are refused.
        default_cut: The default cut; None if a cut must be given.
        cut: The cut.

    Raises:
        InputError: If the method does not support the cut, or a value is out of range.
    """

    name: ClassVar[str]
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str]
    summary: ClassVar[str]
    parameters: ClassVar[Mapping[str, str]] = {}
    """Options of the method itself. The options of the cut are the same for all methods."""
    cost: ClassVar[str]
    joint: ClassVar[bool] = True
    needs_aligned_judge: ClassVar[bool] = False
    uses_trusted: ClassVar[bool] = False
    finds_groups: ClassVar[bool] = False
    score_name: ClassVar[str] = "score"
    score_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    default_cut: ClassVar[Cut | None] = None
    cut: Cut = Field(init=False, repr=False)

    threshold: ThresholdOption = None
    clean_loss: LossOption = None
    labels: str | Path | None = None
    false_alarms: AlarmsOption = None

    def __post_init__(self) -> None:
        cut = {name: value for name in CUT_OPTIONS if (value := getattr(self, name)) is not None}
        # without a default, an empty cut raises an error that names what is missing
        self.cut = Cut(**cut) if cut else self.default_cut or Cut()
        if self.cut.false_alarms is not None and not self.finds_groups:
            raise InputError(
                f"{self.name} finds no groups, which false_alarms (--false-alarms) needs: "
                "give threshold, clean_loss or labels"
            )
        low, high = self.score_range
        if self.cut.threshold is not None and not low < self.cut.threshold < high:
            raise InputError(
                f"threshold {self.cut.threshold} is not a {self.score_name} between {low:g} and {high:g}"
            )

    @abstractmethod
    def score(self, read: ReadPairs) -> PairScores:
        """Score every pair.

        Args:
            read: The embedded pairs, in shards; a set in memory is one shard. `read.vectors()` returns all of them at
                once; use `read.seed` for randomness and `read.progress` for long computations. Nothing reveals which
                pairs are poisoned.

        Raises:
            InputError: If the method cannot score these pairs, for example too few.
        """
        ...


def build_filter(name: str, options: Mapping[str, Any], where: str = "") -> ScoreFilter:
    """Build a pre-training defence by name.

    Args:
        name: Registered name.
        options: Its parameters, and those of the cut (`mmpoison.defenses.catalogue.CutOptions`).
        where: Prefix of an option's name in messages, for example `recipe key filter.`.

    Raises:
        InputError: If there is no such defence, it acts at a different stage, or it has no such option.
    """
    return cast("ScoreFilter", build_defense("pre-training", name, options, where))


@DEFENSES.register("relevance-filter")
class RelevanceFilter(ScoreFilter):
    """Drop pairs whose cosine distance is above a threshold (section 6.1, "pre-training defense").

    Use a different encoder than the victim, so that an attack on one need not deceive the other. Trusted pairs must
    resemble the judged pairs, and the judge must not have been trained on them: captions and images of training pairs
    are closer than any others, so the threshold would drop nearly everything.

    The paper's threshold for CLIP ViT-B/16 is 0.80. Other encoders have other distances, so there is no default.
    """

    name: ClassVar[str] = "relevance-filter"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.1"
    summary: ClassVar[str] = "drops pairs whose image and caption are far apart in another encoder"
    cost: ClassVar[str] = "one embedding pass of the judge; also drops the most distant clean pairs"
    needs_aligned_judge = True
    uses_trusted = True
    score_name = DISTANCE
    score_range = (0.0, 2.0)

    def score(self, read: ReadPairs) -> PairScores:
        """Return the cosine distance of each pair, in [0, 2]."""
        return PairScores(read.distance)


ALIGNED = 0.9
"""Fewest AUROC of true against shuffled pairs at which a distance is informative for a single pair."""

FEWEST_PAIRS = 40
"""Minimum number of pairs for a group search."""


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find suspected targets of poisoning in a data set, and drop their pairs.

    A distance filter finds single odd pairs, which are common in clean data. Poison comes in groups: captions on one
    topic, on images of one kind, that captions of other images do not explain. Two views of the data search for such
    groups, with regressions between captions and images that are fitted on other images. One view compares each caption
    with its image and with the image's other captions. The other compares all captions of an image with the image,
    because the captions of an attacker's own image confirm each other. Conflicting items that are alike on both sides
    grow into a group. A pair's score is its conflict rank in the better of the two views; the score is higher near a
    group, and higher still inside it. If captions are mostly nearer to their own image than to others (AUROC 0.9), the
    score is the distance between caption and image.

    The method needs no training, labels, manifest or trusted pairs, and no aligned encoder. Goals between similar kinds
    (two kinds of houses) look like mistakes in clean data and are rarely found.

    A cut by `false_alarms` (default 0.01) drops the pairs of groups that at most this share of clean data sets contain.
    Any other cut also drops the pairs with the largest scores, which catches less rare groups. `clean_loss` is a share
    of all pairs, including those of the groups; without poison it costs that share.
    """

    name: ClassVar[str] = "suspicious-groups"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = "finds poisoning goals without labels, and drops their pairs"
    cost: ClassVar[str] = "one embedding pass; also drops clean pairs of the same unusual kind"

    joint = False
    finds_groups = True
    score_name = "evidence against a pair"
    default_cut = Cut(false_alarms=LIKELY)

    def score(self, read: ReadPairs) -> PairScores:
        """Find groups, and return each pair's conflict score, or its distance if embeddings are aligned.

        Any encoder that distinguishes topics works.
        """
        if len(read.sample) < FEWEST_PAIRS:
            usable = count_of(len(read.sample), "usable pair")
            few = f"too few pairs to look for groups ({usable}): give at least {FEWEST_PAIRS}"
            shards = read.runner.shards
            return PairScores(lambda n: np.zeros(shards[n].rows), groups=(), notes=(few,))
        found = find_groups(read)
        if read.judge is not None and read.judge.value >= ALIGNED:
            return PairScores(read.distance, found.groups, found.model, name=DISTANCE)
        return PairScores(found.scores, found.groups, found.model)
