"""The amount of poison (samples, pairs, rate or share of a class), and the choice of captions for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from mmpoison.attacks.goal import Goal
from mmpoison.errors import InputError
from mmpoison.pairs.labels import keyword_pattern
from mmpoison.pairs.table import IntArray, PairDataset

Mode = Literal["add", "replace"]
MODES: tuple[Mode, ...] = ("add", "replace")
MOST = 10**12
"""The largest number of samples or pairs that is accepted; the data limit it further."""


@dataclass(frozen=True)
class Amount:
    """The amount of poison of each goal.

    Attributes:
        kind: `samples` and `share` count images of the original class, with all captions of each; `pairs` and `rate`
            count pairs, taken sample by sample.
        value: A whole number from 1; of `rate`, poisoned pairs divided by all training pairs after the attack, in
            (0, 1); of `share`, chosen images divided by the training images of the original class, in (0, 1].
    """

    kind: Literal["samples", "pairs", "rate", "share"]
    value: int | float

    @classmethod
    def of(cls, **given: Any) -> Amount:
        """Return the one amount that is not None.

        Raises:
            InputError: If none or several are given, or the one is no number in its range.

        >>> Amount.of(samples=25, pairs=None, rate=None, share=None)
        Amount(kind='samples', value=25)
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if len(chosen) != 1:
            raise InputError(
                f"exactly one of {', '.join([*given][:-1])} and {[*given][-1]} says how much to poison, got "
                f"{', '.join(chosen) or 'none'}"
            )
        kind: Any
        value: Any
        ((kind, value),) = chosen.items()
        whole = kind in ("samples", "pairs")
        number: Any = Integral if whole else Real
        if isinstance(value, bool) or not isinstance(value, number):
            raise InputError(f"{kind} {value!r} is not a {'whole ' if whole else ''}number")
        if kind == "rate" and not 0 < value < 1:
            raise InputError(f"rate {value} is not between 0 and 1 (0.005 is half a percent)")
        if kind == "share" and not 0 < value <= 1:
            raise InputError(
                f"share {value} is not over 0 and at most 1 (0.5 is half the images of the class)"
            )
        if whole and value < 1:
            raise InputError(f"{kind} {value}: at least 1 is needed, nothing would be poisoned")
        if whole and value > MOST:
            raise InputError(f"{kind} is more than {MOST:,}: give 1 to that")
        return cls(kind, int(value) if whole else float(value))

    @property
    def option(self) -> dict[str, int | float]:
        """The amount as an option of an attack."""
        return {self.kind: self.value}


def choose_captions(
    train: PairDataset,
    goals: Sequence[Goal],
    amount: Amount,
    mode: Mode,
    rngs: Sequence[np.random.Generator],
    lost: int = 0,
    words: Sequence[str] = (),
) -> list[IntArray]:
    """Draw the captions of the original classes that are misused.

    A rate refers to the whole set: its pairs are divided evenly among the goals, rounded down, so that the rate is
    never above the requested one. All other amounts are for each goal.

    Args:
        train: The clean training pairs.
        goals: One or several goals, with different original classes.
        amount: How much.
        mode: Decides how many training pairs there will be, and with that what a rate means.
        rngs: A generator for each goal.
        lost: Training pairs that the attack removes in addition to those of `mode`; a rate refers to what remains.
        words: Only captions with one of these words are drawn; images without such a caption do not count.

    Returns:
        Rows of `train` for each goal, sorted, without repetition.

    Raises:
        InputError: If there are fewer images or captions than requested, or the amount is less than one; the message
            says what is possible.
    """
    candidates = [captions_of(train, goal, words) for goal in goals]
    samples = [
        rng.permutation(np.unique(train.source[rows]))
        for rows, rng in zip(candidates, rngs, strict=True)
    ]
    if amount.kind in ("samples", "share"):
        counts = [
            sample_count(amount, goal, goal.original, len(own), "train images with captions")
            for goal, own in zip(goals, samples, strict=True)
        ]
        return [
            rows[np.isin(train.source[rows], own[:count])].astype(np.int32)
            for rows, own, count in zip(candidates, samples, counts, strict=True)
        ]
    counts = pair_counts(amount, mode, len(train) - lost, goals, [len(rows) for rows in candidates])
    return [
        _first(train, rows, own, count)
        for rows, own, count in zip(candidates, samples, counts, strict=True)
    ]


def captions_of(train: PairDataset, goal: Goal, words: Sequence[str] = ()) -> IntArray:
    """Return the training captions of the original class, rows of `train`, sorted, shape `(n,)`.

    Args:
        train: The training pairs.
        goal: Names the class.
        words: Only captions with one of these words, as `label_by_keyword` finds them; all if empty.

    Raises:
        InputError: If there are none.
    """
    code = train.images.class_code(goal.original)
    rows = np.flatnonzero(train.images.class_codes[train.source] == code).astype(np.int32)
    if not len(rows):
        raise InputError(
            f"goal {goal}: class {goal.original!r} has 0 train images with captions, "
            "so there is nothing to misuse"
        )
    if words:
        pattern = keyword_pattern(words)
        rows = rows[[pattern.search(str(caption)) is not None for caption in train.captions[rows]]]
        if not len(rows):
            raise InputError(
                f"goal {goal}: no train caption of class {goal.original!r} has any of the words "
                f"{', '.join(words)}: name words that its captions have"
            )
    return rows


def sample_count(
    amount: Amount,
    goal: Goal,
    label: str,
    available: int,
    what: str = "train images",
    *,
    owner: str = "",
) -> int:
    """Return how many images of a class an amount of kind `samples` or `share` means.

    Args:
        amount: The amount.
        goal: For the message.
        label: The class.
        available: Number of its images.
        what: What they are, for the message.
        owner: Who has them, for the message, if not the class.

    Raises:
        InputError: If there are fewer, or the share rounds to none.
    """
    if amount.kind == "samples":
        if amount.value > available:
            raise InputError(
                f"goal {goal}: {amount.value} samples asked for, {owner or f'class {label!r} has'} "
                f"{available} {what}: at most samples={available}"
            )
        return int(amount.value)
    count = round(amount.value * available)
    if count < 1:
        raise InputError(
            f"goal {goal}: share {amount.value} of the {available} train images of class "
            f"{label!r} rounds to none: one image is share={1 / available:.4g}"
        )
    return count


def pair_counts(
    amount: Amount,
    mode: Mode,
    train: int,
    goals: Sequence[Goal],
    available: Sequence[int],
    owner: str = "",
) -> list[int]:
    """Return the number of poisoned pairs for each goal, from a number of pairs or a rate.

    Args:
        amount: Of kind `pairs` or `rate`.
        mode: Decides how many training pairs there will be.
        train: Number of training pairs that a rate refers to, without those that are added.
        goals: The goals.
        available: Captions that each goal can misuse.
        owner: Who has them, for the message, if not the original class.

    Raises:
        InputError: If there are fewer, or a rate is less than a pair; the message says what is possible.
    """
    if amount.kind == "pairs":
        counts = [int(amount.value)] * len(goals)
    else:
        total = train / (1 - amount.value) if mode == "add" else train
        # a hair above, so that 0.1 of 1,000 is 100 in floating point too
        wanted = math.floor(amount.value * total + 1e-9)
        if wanted < len(goals):
            least = len(goals)
            what = "one pair" if least == 1 else f"one pair for each of {least} goals"
            smallest = least / (train + (least if mode == "add" else 0))
            raise InputError(
                f"rate {amount.value} of {train} training pairs is less than {what}: the smallest "
                f"rate that poisons is {_rounded(smallest, math.ceil):.4g}"
            )
        whole, rest = divmod(wanted, len(goals))
        counts = [whole + (place < rest) for place in range(len(goals))]
    for goal, count, most in zip(goals, counts, available, strict=True):
        if count > most:
            largest = min(available)
            poison = largest * len(goals)
            rate = poison / (train + (poison if mode == "add" else 0))
            raise InputError(
                f"goal {goal}: {count} pairs asked for, {owner or f'class {goal.original!r} has'} {most} train "
                f"captions: at most pairs={largest} (rate {_rounded(rate, math.floor):.4g})"
            )
    return counts


def _first(train: PairDataset, rows: IntArray, samples: IntArray, count: int) -> IntArray:
    """Choose the captions of the first samples, one whole sample after the other; sorted."""
    position = np.empty(len(train.images), dtype=np.int64)
    position[samples] = np.arange(len(samples))
    order = np.argsort(position[train.source[rows]], kind="stable")
    return np.sort(rows[order[:count]])


def _rounded(value: float, rounding: Callable[[float], int]) -> float:
    """Round a rate to four digits, in the direction in which the named rate is possible."""
    digits = 3 - math.floor(math.log10(value))
    scale = 10.0**digits
    return rounding(value * scale) / scale
