"""The user's own columns: further columns of the data, which mmpoison carries through unchanged."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mmpoison.errors import InputError

OwnColumns = Mapping[str, Any]
"""JSON values by column name. Columns without a value are absent."""

CAPTION_COLUMNS = "caption_columns"
"""Key of the captions' own columns, one object per caption."""

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
"""Names that our formats use. The user's own columns with these names get a trailing underscore."""

MOST_CHARACTERS = 256 << 10
"""Maximum number of characters in one image's own columns, as JSON."""

ColumnKind = Literal["bool", "int", "float", "text"]

_TEXT_TYPES = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)
_LARGEST_INT = 2**63


def own_names(names: Sequence[str], used: Iterable[str]) -> dict[int, str]:
    """Name the unread columns of a table, by position. All names differ, and none is reserved.

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
    """Return the unread values of an object, under the names of `own_names`."""
    names = list(line)
    return own_values({name: line[names[place]] for place, name in own_names(names, used).items()})


def own_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to JSON values, without empty ones.

    >>> own_values({"id": 7, "taken": datetime.date(2020, 1, 2), "empty": "", "x": float("nan")})
    {'id': 7, 'taken': '2020-01-02'}
    """
    plain = ((name, _json_value(value)) for name, value in values.items())
    return {name: value for name, value in plain if value is not None and value != ""}


def check_own(values: OwnColumns) -> None:
    """Refuse own columns that cannot be written.

    Raises:
        InputError: If they are too long or not valid UTF-8.
    """
    try:
        text = json.dumps(values, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise InputError("own columns are not UTF-8 text") from None
    except (RecursionError, ValueError, TypeError):
        raise InputError("own columns cannot be written as JSON") from None
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"own columns exceed {MOST_CHARACTERS:,} characters: {len(text):,}")


def is_own_captions(value: object) -> bool:
    """Check whether a value read from a file is own columns of captions, or None."""
    return value is None or (
        isinstance(value, list) and all(one is None or isinstance(one, dict) for one in value)
    )


def common_columns(
    captions: Sequence[OwnColumns | None],
) -> tuple[dict[str, Any], list[OwnColumns] | None]:
    """Split the user's own columns of an image's captions into columns equal for all captions, and others.

    Returns:
        The image's columns, and each caption's columns, or None if there are none.

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
    # True == 1 == 1.0 in Python, but these are three different values
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
    """Widen column kinds so that they can hold some rows, and add new columns.

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
    """Convert a value to a column's kind. In text columns, other values become JSON."""
    if value is None or kind != "text":
        return float(value) if kind == "float" and value is not None else value
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> ColumnKind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INT <= value < _LARGEST_INT else "text"
    return "float" if isinstance(value, float) else "text"
