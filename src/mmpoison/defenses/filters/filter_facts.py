"""Names the files that a filter writes about its result, and reads back what a review shows of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

GOALS_FILE = "suspected-goals.json"
REPORT_FOLDER = "filter-report"
FACTS_FILE = "filter.json"


@dataclass(frozen=True)
class GoalNote:
    """A suspected goal as a person reads it.

    Attributes:
        sentence: What is suspected.
        why: What is suspicious about it.
        other_explanations: What else could explain it, the likeliest first.
    """

    sentence: str
    why: str
    other_explanations: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilterFacts:
    """What a filter says of its result.

    Attributes:
        score_name: What the score of a pair is.
        data: The set as the filter was given it; None if it does not say.
        data_path: The set's path from the result's folder; None for a set without a path.
        goals: The suspected goals, in the order of `suspected-goals.json`.
    """

    score_name: str = "score"
    data: str | None = None
    data_path: str | None = None
    goals: tuple[GoalNote, ...] = ()

    def source(self, filtered: Path) -> str:
        """Find the set that was filtered, whatever the current folder is.

        Args:
            filtered: The result's folder.

        Raises:
            InputError: If the result does not say which set it was, or that is no longer there.
        """
        if self.data is None:
            raise InputError(
                f"{filtered}: does not say which set was filtered: name it with --data"
            )
        if self.data_path is None:
            return self.data
        found = Path(os.path.normpath(filtered.resolve() / self.data_path))
        # of a result that was moved, the path as it was given may still be right
        for path in (str(found), self.data):
            if os.path.exists(path):  # noqa: PTH110  -- a path that is too long is just not there
                return path
        raise InputError(
            f"{filtered}: the set that was filtered is not at {found} (any more): name it with --data"
        )


def data_pointer(source: str, out: Path) -> dict[str, str]:
    """Return the path of a filtered set from the result's folder, for `filter.json`; nothing for a set without a path.

    The two may be moved together, and are found from any folder.

    Args:
        source: The set as it was given: a path or the name of a data set.
        out: The result's folder.

    Example:
        >>> data_pointer("no-such-path", Path("kept"))
        {}
    """
    if not os.path.exists(source):  # noqa: PTH110  -- a name that is no path is no error
        return {}
    return {"data_path": os.path.relpath(Path(source).resolve(), out.resolve())}


def read_filter_facts(filtered: Path) -> FilterFacts:
    """Read what a filter says of its result; a result without `filter.json` says nothing.

    Raises:
        InputError: If one of the files is broken.
    """
    facts = _object(filtered / REPORT_FOLDER / FACTS_FILE)
    listed = _object(filtered / GOALS_FILE).get("goals", [])
    where = filtered / GOALS_FILE
    if not isinstance(listed, list):
        raise InputError(f"{where}: goals must be a list")
    return FilterFacts(
        _text(facts, "score_name") or _score_name(_text(facts, "method")),
        _text(facts, "data"),
        _text(facts, "data_path"),
        tuple(_goal(goal, f"{where}: goal {number}") for number, goal in enumerate(listed)),
    )


def _object(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    value = read_json(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: an object is needed")
    return value


def _text(facts: Mapping[str, Any], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and "\0" not in value else None


def _score_name(method: str | None) -> str:
    """Return what a registered method calls its score, for results that do not say it themselves."""
    from mmpoison.defenses.catalogue import DEFENSES

    known = DEFENSES[method] if method is not None and method in DEFENSES else None
    return getattr(known, "score_name", FilterFacts.score_name)


def _goal(value: Any, where: str) -> GoalNote:
    if not isinstance(value, dict):
        raise InputError(f"{where}: an object is needed")
    sentence, why = _text(value, "sentence"), _text(value, "why")
    others = value.get("other_explanations", [])
    if sentence is None or why is None or not isinstance(others, list):
        raise InputError(f"{where}: a sentence, why and other_explanations are needed")
    return GoalNote(sentence, why, tuple(map(str, others)))
