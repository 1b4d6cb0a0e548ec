"""The base class of filters, and what they say of pairs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field

from mmpoison.base.options import options
from mmpoison.defenses.catalogue import DefenseKind, build_defense
from mmpoison.defenses.cut import (
    CUT_OPTIONS,
    AlarmsOption,
    Cut,
    LossOption,
    ThresholdOption,
)
from mmpoison.defenses.scan.cut.thresholds import Values
from mmpoison.defenses.scan.groups.fit import GroupModel
from mmpoison.defenses.scan.groups.passes import Group
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import Space
from mmpoison.errors import InputError


@dataclass(frozen=True)
class PairScores:
    """What a method says of the pairs, before the cut.

    Attributes:
        of: Gives the score of each pair of a shard by its number, shape `(n,)`: the larger the more suspicious, NaN
            where a pair cannot be judged.
        groups: Suspicious groups, the strongest first, by a method that finds them.
        model: What they were found by, where goals can be planted as a test.
        space: The space of images, where there is no model.
        facts: What else a report says of the method.
        notes: What a user should know, a line each.
        name: What the score is, where it is not the method's `score_name`.
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
        """Share the scores of all pairs, shape `(N,)`, out to the shards; `more` are other attributes."""
        starts, shards = read.starts, read.runner.shards
        return cls(lambda n: scores[starts[n] : starts[n] + shards[n].rows], **more)


@options
class ScoreFilter(ABC):
    """A pre-training defence: scores pairs before anything is trained on them; a cut says which scores are too large.

    A subclass gives the scores by `score`. `mmpoison.scan` uses it on data of any size, and
    `mmpoison.defenses.filter_pairs`, recipes and the matrix on a set in memory, in the same way.

    Attributes:
        joint: Whether pairs that are embedded for it get joint embeddings, or the outputs of the two trunks.
        needs_aligned_judge: Whether captions are compared with images, so that the judge must embed both in one space.
        uses_trusted: Whether scores of clean pairs from elsewhere can be compared with those of the judged pairs; then
            `clean_loss` is measured on them, otherwise it is a share of the judged pairs.
        finds_groups: Whether there are suspicious groups among the scores, which `false_alarms` needs.
        score_name: What the score is, for figures.
        score_range: Scores lie in it; a threshold outside is refused.
        default_cut: Where it cuts by default; None if a cut must be given.
        cut: Where it cuts.

    Raises:
        InputError: If the method cannot cut so, or a value is out of range.
    """

    name: ClassVar[str]
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str]
    summary: ClassVar[str]
    parameters: ClassVar[Mapping[str, str]] = {}
    """Options of the method itself; those of the cut are the same for all."""
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
        # without a default an empty cut says what is missing
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
            read: The embedded pairs, in shards; a set in memory is one shard. `read.vectors()` has all of them at once,
                and `read.seed` and `read.progress` are for what is random or takes long. Nothing in them says which
                pairs are poisoned.

        Raises:
            InputError: If the method cannot score these pairs, for example too few.
        """
        ...


def build_filter(name: str, options: Mapping[str, Any], where: str = "") -> ScoreFilter:
    """Build a pre-training defence by name.

    Args:
        name: Registered name.
        options: Its own parameters, and those of the cut (`mmpoison.defenses.cut.CutOptions`).
        where: Prefix of an option's name in messages, for example `recipe key filter.`.

    Raises:
        InputError: If there is no such defence, it acts at another time, or it has no such option.
    """
    return cast("ScoreFilter", build_defense("pre-training", name, options, where))
