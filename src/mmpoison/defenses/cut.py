"""The cut of a filter: as requested (`Cut`), and the threshold that results from it (`Threshold`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from mmpoison.base.option_checks import check_number
from mmpoison.errors import InputError

Rule = Literal["given", "loss", "labels", "false-alarms"]
Interval = tuple[float, float]


class CutOptions(TypedDict, total=False):
    """Keywords of every filter that say where to cut, as `Cut` explains them."""

    threshold: float | None
    clean_loss: float | None
    labels: str | Path | None
    false_alarms: float | None


@dataclass(frozen=True)
class Cut:
    """Says which scores are dropped: at most one of `threshold`, `clean_loss` and `labels`.

    Two may be combined: with `labels`, `clean_loss` is the largest share; `false_alarms` may be combined with any.

    Attributes:
        threshold: Pairs with a larger score are dropped.
        clean_loss: The share of clean pairs one is ready to lose, in (0, 1), measured on trusted pairs; without any, or
            by a method whose scores of other pairs mean nothing, that share of the judged pairs.
        labels: A CSV with the columns pair and verdict.
        false_alarms: For a method that finds groups: how often clean data may show such a group, in (0, 1).

    Raises:
        InputError: If nothing or too much is given, or a value is out of range.
    """

    threshold: float | None = None
    clean_loss: float | None = None
    labels: Path | None = None
    false_alarms: float | None = None

    def __post_init__(self) -> None:
        given = (self.threshold is not None) + (self.labels is not None)
        given += self.clean_loss is not None and self.labels is None
        if given > 1 or (not given and self.false_alarms is None):
            raise InputError(
                "give exactly one of threshold (--threshold), clean_loss (--lose) and labels (--labels), which "
                "says where to cut; only clean_loss and labels may be given together"
            )
        if self.clean_loss is not None:
            check_loss(self.clean_loss)
        if self.false_alarms is not None:
            check_number("false_alarms", self.false_alarms, "between 0 and 1", 0, 1)

    @classmethod
    def of(cls, options: CutOptions) -> Cut | None:
        """Build a cut from keywords; None if they set none.

        Raises:
            InputError: As `Cut`, or if a keyword is none of a cut's.
        """
        if unknown := set(options) - CUT_OPTIONS:
            raise TypeError(f"unexpected option {min(unknown)!r}")
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        if not isinstance(labels := given.pop("labels", ""), str | Path):
            raise InputError(f"labels {labels!r:.40} is not the path of a file")
        if str(labels):
            given["labels"] = Path(labels)
        return cls(**given) if given else None


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


def check_loss(loss: float) -> None:
    """Refuse a number that is not a share of clean pairs.

    Raises:
        InputError: If it is not between 0 and 1.
    """
    check_number("clean_loss", loss, "a share between 0 and 1", 0, 1)
