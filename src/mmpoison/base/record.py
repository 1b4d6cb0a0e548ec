"""JSON files as typed values: one class writes a layout and reads it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainValidator,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mmpoison.base.text import one_line
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

T = TypeVar("T")

_NEEDED = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "value_error": "a number",
    "bool_type": "true or false",
}
_KINDS = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a truth value"}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")
    return value


Number = Annotated[float, PlainValidator(_number)]
"""A number. Whole numbers stay whole, so that they are written as they were read."""

OrEmpty = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]
"""A section; null is read as an empty section."""


class Record(BaseModel):
    """An object of a JSON file.

    Values that were not computed are absent: they read as the default and are not written. Unknown keys, from newer
    versions, are preserved and written back. A known key with a value of the wrong kind is refused.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    _keys: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _note_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        record = handler(value)
        if isinstance(value, Mapping):
            record._keys = tuple(value)
        return record

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the given keys in their order, so that a file that was read is written back to the same bytes."""
        found = handler(self)
        return {key: found[key] for key in self._keys}

    def __repr_args__(self) -> Iterator[tuple[str, object]]:
        yield from ((key, self[key]) for key in self._keys)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return self.model_dump(by_alias=True)

    def __getitem__(self, key: str) -> Any:
        """Return the value of a JSON key, such as `row["hit@10"]`. Raise KeyError if it is absent."""
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, _field_names(type(self)).get(key, key))

    def number(self, key: str) -> float | None:
        """Return the number of a JSON key, or None if there is none.

        >>> Record.of({"x": 2, "name": "a"}).number("x"), Record.of({"name": "a"}).number("name")
        (2.0, None)
        """
        value = self[key] if key in self._keys else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value)

    @classmethod
    def of(cls, value: object, where: str | Path = "the record") -> Self:
        """Build the record from plain JSON values. A record of this class is returned unchanged.

        Args:
            value: A JSON object.
            where: Its name in messages.

        Raises:
            InputError: If the value is not an object, or a known key has a value of the wrong kind.

        Example:
            >>> Record.of([1], "metrics.json")
            Traceback (most recent call last):
            mmpoison.errors.InputError: metrics.json: must be an object, not a list
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise InputError(f"{where}: {_first_problem(error)}") from None

    @classmethod
    def read(cls, file: Path, change: Callable[[Any], Any] = lambda value: value) -> Self:
        """Read a JSON file that holds one record.

        Args:
            file: The file.
            change: Applied to the parsed JSON first, such as `reporting.text.clean`.

        Raises:
            InputError: If the file is missing, broken, or not such a record.
        """
        return cls.of(change(read_json(file)), file)

    @classmethod
    def read_list(
        cls, file: Path, change: Callable[[Any], Any] = lambda value: value
    ) -> list[Self]:
        """Read a JSON file that holds a list of records.

        Args:
            file: The file.
            change: As for `read`.

        Raises:
            InputError: If the file is missing, broken, or not such a list.
        """
        value = change(read_json(file))
        if not isinstance(value, list):
            raise InputError(f"{file}: must be a list, not {_kind(value)}")
        return [cls.of(item, f"{file}: item {place}") for place, item in enumerate(value)]


@cache
def _field_names(kind: type[Record]) -> dict[str, str]:
    """Map JSON keys that are not Python names, such as `hit@10`, to their field names."""
    return {f.alias: name for name, f in kind.model_fields.items() if f.alias is not None}


def _first_problem(error: ValidationError) -> str:
    """Describe the first problem in one line: where it is, and what is needed."""
    found = error.errors(include_url=False, include_context=False)[0]
    place = one_line(".".join(str(part)[:60] for part in found["loc"]))
    if found["type"] == "missing":
        return f"{place} is missing"
    if found["type"] in _NEEDED:
        problem = f"must be {_NEEDED[found['type']]}, not {_kind(found['input'])}"
    else:
        problem = f"is not as expected ({found['msg']})"
    return f"{place} {problem}" if place else problem


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")
