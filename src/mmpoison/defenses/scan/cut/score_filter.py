"""The base class of filters, and the scores they return."""

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
        options: Its parameters, and those of the cut (`mmpoison.defenses.cut.CutOptions`).
        where: Prefix of an option's name in messages, for example `recipe key filter.`.

    Raises:
        InputError: If there is no such defence, it acts at a different stage, or it has no such option.
    """
    return cast("ScoreFilter", build_defense("pre-training", name, options, where))
