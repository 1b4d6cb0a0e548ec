"""The columns of Arrow and Parquet files that hold the bytes of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

IMAGE_NAMES = (
    "image",
    "filepath",
    "file_name",
    "filename",
    "image_path",
    "image_name",
    "path",
    "img",
    "jpg",
    "png",
)
"""Usual names of a column of images, the likeliest first."""


def arrow_errors() -> tuple[type[Exception], ...]:
    """Return the errors that pyarrow raises for a broken file, including Python's for names that are not UTF-8."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, UnicodeDecodeError)


def default_image_column(schema: Any) -> str | None:
    """Return the column of image bytes that is used by default.

    It is the first usual name whose type is bytes (or Hugging Face's `{bytes, path}`), else the first such column.
    """
    inside = [field.name for field in schema if holds_bytes(field.type)]
    return usual_column(inside, IMAGE_NAMES) or next(iter(inside), None)


def holds_bytes(kind: Any) -> bool:
    """Return whether an Arrow type can hold the bytes of an image."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(
            kind.field(n).name == "bytes" and holds_bytes(kind.field(n).type)
            for n in range(kind.num_fields)
        )
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """Return the first column with a recognised name; case and spaces around a name are ignored.

    >>> usual_column(["Filepath", " title "], ("caption", "title"))
    ' title '
    """
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)
