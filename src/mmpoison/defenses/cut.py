"""The cut of a filter: as requested (`Cut`), and the threshold that results from it (`Threshold`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BeforeValidator, Field

from mmpoison.base.options import options
from mmpoison.errors import InputError

Rule = Literal["given", "loss", "labels", "false-alarms"]
Interval = tuple[float, float]


ThresholdOption = Annotated[float | None, Field(description="drop pairs with a larger score")]
LossOption = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="acceptable loss of clean pairs, measured on trusted pairs if there are any, else as a "
        "share of the judged pairs",
    ),
]
LabelsOption = Annotated[
    Path | None,
    BeforeValidator(lambda given: Path(given) if given and type(given) is str else given or None),
    Field(description="a CSV with the columns pair and verdict"),
]
AlarmsOption = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="share of clean data sets that may raise an alarm, for a method that finds groups",
    ),
]


class CutOptions(TypedDict, total=False):
    """Keywords of every filter that say where to cut, as `Cut` explains them."""

    threshold: float | None
    clean_loss: float | None
    labels: str | Path | None
    false_alarms: float | None


@options
class Cut:
    """Says which scores are dropped: at most one of `threshold`, `clean_loss` and `labels`.

    Two may be combined: with `labels`, `clean_loss` is the largest share; `false_alarms` may be combined with any.

    Raises:
        InputError: If nothing or too much is given, or a value is out of range.
    """

    threshold: ThresholdOption = None
    clean_loss: LossOption = None
    labels: LabelsOption = None
    false_alarms: AlarmsOption = None

    def __post_init__(self) -> None:
        given = (self.threshold is not None) + (self.labels is not None)
        given += self.clean_loss is not None and self.labels is None
        if given > 1 or (not given and self.false_alarms is None):
            raise InputError(
                "give exactly one of threshold (--threshold), clean_loss (--lose) and labels (--labels), which sets "
                "the cut; only clean_loss and labels may be given together"
            )


CUT_OPTIONS = frozenset(CutOptions.__annotations__)
"""Names of the keywords of a cut."""


@dataclass(frozen=True)
class Threshold:
    """A score above which pairs are dropped.

    Attributes:
        value: The score.
        rule: What chose it.
        interval: 95% confidence interval of the score, where data chose it.
        loss: Share of the clean pairs that it is expected to drop, where that can be estimated.
        loss_interval: 95% confidence interval of that share.
        note: What a user must know of it, or empty.
    """

    value: float
    rule: Rule
    interval: Interval | None = None
    loss: float | None = None
    loss_interval: Interval | None = None
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """Return plain values for a log; what is not known is absent."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None and value != ""
        }
