"""Own columns: what a user's data say of images and captions besides what mmpoison reads, carried through unchanged."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mmpoison.errors import InputError

OwnColumns = Mapping[str, Any]
"""Values by the name of their column, as JSON has them; a column without a value is absent."""

CAPTION_COLUMNS = "caption_columns"
"""Key of the own columns of single captions, one object for each caption."""

RESERVED_NAMES = frozenset(
    (
        "image",
        "captions",
        "label",
        "split",
        "categories",
        CAPTION_COLUMNS,
        "caption",
        "key",
        "status",
    )
)
"""Names that our formats give a meaning; an own column with such a name gets an underscore behind it."""

MOST_CHARACTERS = 256 << 10
"""Characters of the own columns of one image, as JSON."""

ColumnKind = Literal["bool", "int", "float", "text"]

_TEXT_TYPES = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
_LARGEST_INT = 2**63


def own_names(names: Sequence[str], used: Iterable[str]) -> dict[int, str]:
    """Name the columns of a table that are not read: by their place, all different and none of our own names.

    >>> own_names(["image", "caption", "key", "", "n", "n"], ["image", "caption"])
    {2: 'key_', 3: 'column 4', 4: 'n', 5: 'n_'}
    """
    skipped, taken, found = set(used), set(RESERVED_NAMES), {}
    for place, name in enumerate(names):
        if name in skipped:
            skipped.remove(name)
            continue
        free = name.strip() or f"column {place + 1}"
        while free in taken:
            free += "_"
        taken.add(free)
        found[place] = free
    return found


def own_keys(line: Mapping[str, Any], used: Iterable[str]) -> dict[str, Any]:
    """Return the values of an object that are not read, under the names of `own_names`."""
    names = list(line)
    return own_values({name: line[names[place]] for place, name in own_names(names, used).items()})


def own_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as JSON has them; empty ones are left out.

    >>> own_values({"id": 7, "taken": datetime.date(2020, 1, 2), "empty": "", "x": float("nan")})
    {'id': 7, 'taken': '2020-01-02'}
    """
    plain = ((name, _json_value(value)) for name, value in values.items())
    return {name: value for name, value in plain if value is not None and value != ""}


def check_own(values: OwnColumns) -> None:
    """Refuse own columns that cannot be written.

    Raises:
        InputError: If they are too long, or no text in UTF-8.
    """
    try:
        text = json.dumps(values, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InputError("own columns are not text in UTF-8") from None
    except (RecursionError, ValueError, TypeError):
        raise InputError("own columns cannot be written as JSON") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"own columns have {len(text):,} characters, over {MOST_CHARACTERS:,}")


def is_own_captions(value: object) -> bool:
    """Return whether a value read from a file is own columns of captions, or None."""
    return value is None or (
        isinstance(value, list) and all(one is None or isinstance(one, dict) for one in value)
    )


def common_columns(
    captions: Sequence[OwnColumns | None],
) -> tuple[dict[str, Any], list[OwnColumns] | None]:
    """Split the own columns of the captions of an image into those that are equal for all, and the others.

    Returns:
        The columns of the image; those of each caption, or None if there are none.

    >>> common_columns([{"by": "Ann", "id": 1}, {"by": "Ann", "id": 2}])
    ({'by': 'Ann'}, [{'id': 1}, {'id': 2}])
    """
    rows = [dict(row or {}) for row in captions]
    first = rows[0] if rows else {}
    common = {
        name: value
        for name, value in first.items()
        if all(name in row and _same(row[name], value) for row in rows)
    }
    rest: list[OwnColumns] = [
        {name: value for name, value in row.items() if name not in common} for row in rows
    ]
    return common, rest if any(rest) else None


def _same(a: Any, b: Any) -> bool:
    # True == 1 == 1.0 for Python, but they are three values
    return json.dumps(a) == json.dumps(b)


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _json_value(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    return str(value) if isinstance(value, _TEXT_TYPES) else None


# -- columns of a table ----------------------------------------------------------------------------


def add_kinds(kinds: dict[str, ColumnKind], rows: Iterable[OwnColumns | None]) -> None:
    """Widen the kinds of columns so that they can hold some rows; new columns are added.

    >>> kinds = {}
    >>> add_kinds(kinds, [{"n": 1}, {"n": 2.5, "ok": True}, None, {"ok": "maybe"}])
    >>> kinds
    {'n': 'float', 'ok': 'text'}
    """
    for row in rows:
        for name, value in (row or {}).items():
            kind = _kind(value)
            known = kinds.setdefault(name, kind)
            if known != kind:
                kinds[name] = "float" if {known, kind} == {"int", "float"} else "text"


def column_value(value: Any, kind: ColumnKind) -> Any:
    """Return a value for a column of a kind; in a column of text what is no text is JSON."""
    if value is None or kind != "text":
        return float(value) if kind == "float" and value is not None else value
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> ColumnKind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INT <= value < _LARGEST_INT else "text"
    return "float" if isinstance(value, float) else "text"
