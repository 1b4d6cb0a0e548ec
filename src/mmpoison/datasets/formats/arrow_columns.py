"""Finds the columns of a Parquet or Arrow table that hold images, captions, labels and splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpoison.base.untrusted import parse_json
from mmpoison.datasets.formats.columns import ColumnNames, find_column, need_column
from mmpoison.errors import InputError
from mmpoison.images.arrow_images import default_image_column, holds_bytes
from mmpoison.pairs.own_columns import CAPTION_COLUMNS, own_names


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
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: several columns are called {twice[0]!r}, which one is meant?")
    default = default_image_column(schema)
    if chosen.get("image_column") is not None:
        image = need_column(names, chosen, "image_column", where)
    else:
        texts = [field.name for field in schema if is_text_type(field.type)]
        image = default or need_column(texts, {}, "image_column", where)
    inside = holds_bytes(schema.field(image).type)
    if not inside and not is_text_type(schema.field(image).type):
        raise InputError(
            f"{where}: image_column {image!r} holds {schema.field(image).type}: paths or bytes are needed"
        )
    if inside and image != default and "/" in image:
        raise InputError(
            f"{where}: a column of images cannot be called {image!r}, with a slash in it"
        )
    captions = need_column(names, chosen, "caption_column", where)
    if not (
        is_text_type(schema.field(captions).type) or is_list_of_text(schema.field(captions).type)
    ):
        raise InputError(
            f"{where}: caption_column {captions!r} holds {schema.field(captions).type}: "
            "a string or a list of strings is needed"
        )
    label = find_column(names, chosen, "label_column", where)
    split = find_column(names, chosen, "split_column", where)
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
