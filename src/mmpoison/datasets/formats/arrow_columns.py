"""Finds the columns of a Parquet or Arrow table that hold images, captions, labels and splits; reads values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import parse_json
from mmpoison.base.untrusted_csv import check_names
from mmpoison.datasets.formats.columns import (
    SAMPLE_ROWS,
    ColumnNames,
    Sample,
    complete_columns,
    find_column,
    need_column,
)
from mmpoison.errors import InputError
from mmpoison.images.containers import default_image_column, holds_bytes
from mmpoison.pairs.own_columns import CAPTION_COLUMNS, own_names

TEXTS_OF_A_LIST = 5
"""So many captions of one image are examined."""


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that pairs are made of.

    Attributes:
        image: Column of the images.
        inside: Whether it holds the bytes of images, rather than paths.
        captions: Column of strings, or lists of strings.
        label, split, categories: Further columns, or None.
        label_names: Names of the classes where the label is their number.
        own: Columns that are the user's own, and what each is called in a table of pairs.
        caption_columns: Whether there is a column of own columns of captions.
        default_image: Whether a reader that knows only the file chooses the same column of images.
    """

    image: str
    inside: bool
    captions: str
    label: str | None = None
    split: str | None = None
    categories: str | None = None
    label_names: tuple[str, ...] = ()
    default_image: bool = True
    own: Mapping[str, str] = field(default_factory=dict)
    caption_columns: bool = False

    @property
    def needed(self) -> list[str]:
        """The columns that are read to make a table: never the bytes of images."""
        names = [self.captions, self.label, self.split, self.categories, *self.own]
        if self.caption_columns:
            names.append(CAPTION_COLUMNS)
        if not self.inside:
            names.insert(0, self.image)
        return list(dict.fromkeys(name for name in names if name is not None))


def complete_arrow_columns(
    schema: Any, chosen: ColumnNames, where: str, root: Path, read: Callable[[list[str]], Any]
) -> ColumnNames:
    """Complete the user's choice of columns by what the columns of text hold, see `complete_columns`.

    Args:
        schema: Arrow schema.
        chosen: The user's choice.
        where: The file, for messages.
        root: Folder that image paths start from.
        read: Reads some rows of some columns, a record batch or None; called only if there is something to find.

    Raises:
        InputError: As `complete_columns`.
    """
    texts = [
        field.name for field in schema if is_text_type(field.type) or is_list_of_text(field.type)
    ]

    def sample() -> Sample:
        batch = read(texts) if texts else None
        return {} if batch is None else {name: _texts(batch.column(name)) for name in texts}

    image = chosen.get("image") or default_image_column(schema)
    return complete_columns(list(schema.names), chosen, where, root, sample, image=image)


def _texts(column: Any) -> list[str]:
    """Return the first values of a column of text; of lists their first texts."""
    values = values_of(column.slice(0, SAMPLE_ROWS))
    lists = (value if isinstance(value, list) else [value] for value in values)
    return [text for texts in lists for text in texts[:TEXTS_OF_A_LIST] if isinstance(text, str)]


def choose_columns(
    schema: Any, chosen: ColumnNames, where: str, *, own_columns: bool = False
) -> TableColumns:
    """Choose the columns of a table by the user's options, recognised names and types.

    Args:
        schema: Arrow schema; Hugging Face's features in its metadata tell the classes' names.
        chosen: The user's choice of columns.
        where: The file, for messages.
        own_columns: Choose the user's own columns too: all others, but those that hold bytes.

    Raises:
        InputError: If a column is missing or of a type that cannot be used.
    """
    names = list(schema.names)
    check_names(names, where)
    default = default_image_column(schema)
    image = need_column(names, {"image": chosen.get("image") or default}, "image", where)
    inside = holds_bytes(schema.field(image).type)
    if not inside and not is_text_type(schema.field(image).type):
        raise InputError(
            f"{where}: column {image!r} holds {schema.field(image).type}, no images: paths or bytes are needed"
        )
    if inside and image != default and "/" in image:
        raise InputError(
            f"{where}: a column of images cannot be called {image!r}, with a slash in it"
        )
    captions = need_column(names, chosen, "caption", where)
    if not (
        is_text_type(schema.field(captions).type) or is_list_of_text(schema.field(captions).type)
    ):
        raise InputError(
            f"{where}: column {captions!r} holds {schema.field(captions).type}, no captions: "
            "a string or a list of strings is needed"
        )
    label = find_column(names, chosen, "label", where)
    split = find_column(names, chosen, "split", where)
    categories = find_column(names, {}, "categories", where)
    if categories is not None and not is_list_of_text(schema.field(categories).type):
        categories = None
    several = CAPTION_COLUMNS in names and is_list_of_text(schema.field(CAPTION_COLUMNS).type)
    own: dict[str, str] = {}
    if own_columns:
        used = [image, captions, *(n for n in (label, split, categories) if n is not None)]
        if several:
            used.append(CAPTION_COLUMNS)
        free = [f.name for f in schema if f.name not in used and not _has_bytes(f.type)]
        own = {free[place]: name for place, name in own_names(free, ()).items()}
    return TableColumns(
        image,
        inside,
        captions,
        label,
        split,
        categories,
        _class_names(schema, label),
        not inside or image == default,
        own,
        own_columns and several,
    )


def _has_bytes(kind: Any) -> bool:
    """Return whether a value of an Arrow type can hold bytes, which JSON has not."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_binary_view(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_has_bytes(kind.field(n).type) for n in range(kind.num_fields))


def is_text_type(kind: Any) -> bool:
    """Return whether an Arrow type is a string, plain or as a dictionary."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_list_of_text(kind: Any) -> bool:
    """Return whether an Arrow type is a list of strings."""
    import pyarrow.types as types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and is_text_type(kind.value_type))


def _class_names(schema: Any, label: str | None) -> tuple[str, ...]:
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None or label is None:
        return ()
    try:
        names = parse_json(raw, "huggingface")["info"]["features"][label]["names"]
    except (InputError, KeyError, TypeError):
        return ()
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else ()


def values_of(column: Any) -> list[Any]:
    """Return the Python values of an Arrow array.

    Text that is no UTF-8, and times that Python has not, come out as text that cannot be written.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        # each value is one object, however often it occurs
        values = values_of(column.dictionary)
        return [None if place is None else values[place] for place in column.indices.to_pylist()]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_dictionary(
        kind.value_type
    ):
        flat = iter(values_of(column.flatten()))
        lengths = column.value_lengths().to_pylist()
        return [None if n is None else list(islice(flat, n)) for n in lengths]
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(column, row) for row in range(len(column))]


def _value(column: Any, row: int) -> Any:
    try:
        return column[row].as_py()
    except (ValueError, OverflowError):
        # half a surrogate pair: the builder refuses it and names its row
        return "\udcff"
