"""Guesses which columns of a Parquet or Arrow table hold images and captions, where none has a usual name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmpoison.datasets.formats.arrow_columns import is_list_of_text, is_text_type
from mmpoison.datasets.formats.arrow_rows import values_of
from mmpoison.datasets.formats.columns import ColumnNames, find_column
from mmpoison.datasets.formats.guessed_columns import SAMPLE_ROWS, Sample, complete_columns
from mmpoison.images.arrow_images import default_image_column

TEXTS_OF_A_LIST = 5
"""So many captions of one image are examined."""


def complete_arrow_columns(
    schema: Any, chosen: ColumnNames, where: str, root: Path, read: Callable[[list[str]], Any]
) -> ColumnNames:
    """Complete the user's choice of columns by what the columns of text hold, where none has a usual name.

    Args:
        schema: Arrow schema.
        chosen: The user's choice.
        where: The file, for messages.
        root: Folder that image paths start from.
        read: Reads some rows of some columns, a record batch or None; called only if something must be guessed.

    Raises:
        InputError: If the content leaves no choice, or several.
    """
    if len(set(schema.names)) < len(schema.names):
        return chosen  # `choose_columns` refuses it
    texts = [
        field.name for field in schema if is_text_type(field.type) or is_list_of_text(field.type)
    ]

    def sample() -> Sample:
        batch = read(texts) if texts else None
        return {} if batch is None else {name: _texts(batch.column(name)) for name in texts}

    image = chosen.get("image_column")
    if image is None:
        paths = [field.name for field in schema if is_text_type(field.type)]
        image = default_image_column(schema) or find_column(paths, {}, "image_column", where)
    return complete_columns(list(schema.names), chosen, where, root, sample, image=image)


def _texts(column: Any) -> list[str]:
    """Return the first values of a column of text; of lists their first texts."""
    values = values_of(column.slice(0, SAMPLE_ROWS))
    lists = (value if isinstance(value, list) else [value] for value in values)
    return [text for texts in lists for text in texts[:TEXTS_OF_A_LIST] if isinstance(text, str)]
