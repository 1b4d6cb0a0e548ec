"""Goals of the form `A2B`: captions of class A are meant to retrieve images of class B."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

AUTO = "auto"
"""Target class of a goal whose target the attack chooses."""


@dataclass(frozen=True)
class Goal:
    """One goal of an attack (section 4 of the paper).

    Attributes:
        original: The class whose captions are used.
        target: The class whose images they are meant to retrieve.
    """

    original: str
    target: str

    def __str__(self) -> str:
        return f"{self.original}2{self.target}"

    @classmethod
    def parse(cls, text: str, classes: Sequence[str]) -> Goal:
        """Parse `sheep2aeroplane`, given the classes of the data.

        Raises:
            InputError: If the text is not `A2B`, a class is unknown, or A is B.

        >>> Goal.parse("sheep2aeroplane", ["aeroplane", "sheep"])
        Goal(original='sheep', target='aeroplane')
        """
        # class names may contain a 2, so try every 2 as the separator
        cuts = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "2"]
        cuts = [(a, b) for a, b in cuts if a and b]
        if not cuts:
            raise InputError(f"goal {text!r} is not of the form A2B, for example sheep2aeroplane")
        known = set(classes)
        for original, target in cuts:
            if original in known and target in known:
                if original == target:
                    raise InputError(f"goal {text!r}: original and target class are the same")
                return cls(original, target)
        if not known:
            raise InputError(f"goal {text!r}: the data have no labels, but a goal needs classes")
        original, target = max(cuts, key=lambda cut: sum(name in known for name in cut))
        wrong = original if original not in known else target
        raise InputError(f"goal {text!r}: {unknown_name('class', wrong, list(classes))}")


def original_of_auto(text: str, classes: Sequence[str]) -> str | None:
    """Return A of a goal `A2auto`, whose target class the attack chooses, or None for any other text.

    If a class is called `auto`, `A2auto` is an ordinary goal.

    Raises:
        InputError: If A is not a class.

    >>> original_of_auto("sheep2auto", ["aeroplane", "sheep"])
    'sheep'
    """
    original, separator, target = text.rpartition("2")
    if not (original and separator) or target != AUTO or AUTO in classes:
        return None
    if original not in classes:
        raise InputError(f"goal {text!r}: {unknown_name('class', original, list(classes))}")
    return original


def require_different_originals(goals: Sequence[Goal]) -> None:
    """Refuse goals of one attack that use captions of the same class.

    Raises:
        InputError: If two goals have the same original class.
    """
    twice = [name for name, n in Counter(goal.original for goal in goals).items() if n > 1]
    if twice:
        raise InputError(
            f"goals {', '.join(map(str, goals))}: class {twice[0]!r} is the original class of several goals: give each "
            "goal its own original class"
        )


def goal_classes(pairs: PairDataset) -> list[str]:
    """List the classes that goals can use: those with both train and test pairs."""
    codes = pairs.images.class_codes[pairs.image]
    found = [set(codes[pairs.in_split(split)].tolist()) for split in ("train", "test")]
    both = set.intersection(*found)
    return [name for code, name in enumerate(pairs.classes) if code in both]
