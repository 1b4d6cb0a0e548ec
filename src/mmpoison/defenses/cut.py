"""A filter's cut as requested (`Cut`), and the resulting threshold (`Threshold`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BeforeValidator, Field

from mmpoison.base.registry import options
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
    """Keyword arguments of every filter that define the cut; `Cut` explains them."""

    threshold: float | None
    clean_loss: float | None
    labels: str | Path | None
    false_alarms: float | None


@options
class Cut:
    """Defines which scores are dropped: at most one of `threshold`, `clean_loss` and `labels`.

    With `labels`, `clean_loss` caps the loss. `false_alarms` may be combined with any.

    Raises:
        InputError: If no cut or conflicting cuts are given, or a value is out of range.
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
"""Keyword names of a cut."""


@dataclass(frozen=True)
class Threshold:
    """A score above which pairs are dropped.

    Attributes:
        value: The score.
        rule: What chose it.
        interval: 95% confidence interval of the score, if it was chosen from data.
        loss: Estimated share of the clean pairs that it drops; None if unknown.
        loss_interval: 95% confidence interval of that share.
        note: A note for the user, or empty.
    """

    value: float
    rule: Rule
    interval: Interval | None = None
    loss: float | None = None
    loss_interval: Interval | None = None
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """Return plain values for a log. Unknown values are absent."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None and value != ""
        }
