"""Ends a training whose loss stops being a number or explodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mmpoison.errors import ResultError

WINDOW = 20


class DivergedError(ResultError):
    """The loss stopped being a number, or exploded."""


@dataclass
class LossGuard:
    """Watches the loss of every step.

    Args:
        batch_size: Its logarithm is the loss of an encoder that cannot tell pairs apart.
        factor: How many times the usual loss is too much.
    """

    batch_size: int
    factor: float
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    def check(self, loss: float, step: int) -> None:
        """Check the loss of one step.

        Raises:
            DivergedError: If it is not a finite number, or the mean of the last 20 has exploded.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {step}")
        if len(self.first) < WINDOW:
            self.first.append(loss)
            return
        self.last = [*self.last[-WINDOW + 1 :], loss]
        usual = max(math.log(self.batch_size), sum(self.first) / WINDOW)
        mean = sum(self.last) / len(self.last)
        if len(self.last) == WINDOW and mean > self.factor * usual:
            raise DivergedError(
                f"the loss has exploded: {mean:.3g} on average over the last {WINDOW} steps, at step {step}; "
                f"{usual:.3g} is usual"
            )
