"""Rows of Parquet and Arrow tables as entries of a table of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import parse_json
from mmpoison.datasets.entries import ImageEntry
from mmpoison.datasets.formats.arrow_columns import TableColumns, values_of
from mmpoison.datasets.formats.columns import path_in_root, split_name
from mmpoison.errors import InputError
from mmpoison.pairs.builder import is_text
from mmpoison.pairs.own_columns import CAPTION_COLUMNS, own_values

ROWS_MEASURED = 64

MOST_TEXT = 256 << 20
TEXT_PER_BYTE = 100
"""A file may hold `MOST_TEXT` bytes of text, and so many for each of its own bytes."""


def entries_of(
    batches: Iterable[tuple[int, Any]],
    columns: TableColumns,
    file: str,
    root: Path,
    split: str | None,
) -> Iterator[ImageEntry | str]:
    """Yield the entries of one file, row by row.

    Args:
        batches: Its record batches, with at least the columns that are needed, each with the number of its first row.
        columns: Which columns.
        file: Path of the file relative to the root, for image ids and messages.
        root: Root of image paths.
        split: The split that the file's name tells, where no column does.

    Yields:
        An entry, or a line that says what is left out.
    """
    prefix = file if columns.default_image else f"{file}/{columns.image}"
    for first, batch in batches:
        texts = values_of(batch.column(columns.captions))
        nothing = [None] * batch.num_rows
        images = nothing if columns.inside else values_of(batch.column(columns.image))
        labels, splits, categories = (
            nothing if name is None else values_of(batch.column(name))
            for name in (columns.label, columns.split, columns.categories)
        )
        own = {name: values_of(batch.column(column)) for column, name in columns.own.items()}
        own_captions = (
            values_of(batch.column(CAPTION_COLUMNS)) if columns.caption_columns else nothing
        )
        rows = zip(images, texts, labels, splits, categories, strict=True)
        for row, (image, text, label, own_split, several) in enumerate(rows, start=first):
            where = f"{file} row {row}"
            if text is None:
                yield f"{where}: has no caption"
                continue
            if columns.inside:
                image_id = f"{prefix}/{row}"
            elif image is None:
                yield f"{where}: has no image"
                continue
            else:
                try:
                    image_id = path_in_root(image, root)
                except InputError as error:
                    yield f"{where}: {error}"
                    continue
            yield ImageEntry(
                image_id,
                text if isinstance(text, list) else [text],
                where,
                _label(label, columns.label_names),
                split_name(own_split if own_split is None else str(own_split)) or split,
                [name for name in several or () if isinstance(name, str) and is_text(name)],
                columns.inside,
                own=own_values({name: values[row - first] for name, values in own.items()})
                if own
                else None,
                own_captions=_caption_columns(own_captions[row - first], where),
            )


def _caption_columns(value: Any, where: str) -> list[dict[str, Any]] | None:
    """Read the own columns of captions, a JSON object each; what is none says nothing."""
    if not isinstance(value, list):
        return None
    return [_object(text, where) for text in value]


def _object(text: Any, where: str) -> dict[str, Any]:
    try:
        found = parse_json(text, where) if isinstance(text, str) else None
    except (InputError, UnicodeEncodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _label(value: Any, names: tuple[str, ...]) -> str | None:
    if value is None or value == "":
        return None
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value)


def bounded_batches(
    batches: Iterable[tuple[int, Any]], path: Path, name: str, problems: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield batches of a file up to a limit of text bytes in total; a small file may repeat one text many times.

    Args:
        batches: Each with the number of its first row.
        path: The file.
        name: What it is called in problems.
        problems: Gets a line where it is too much.
    """
    limit = MOST_TEXT + TEXT_PER_BYTE * path.stat().st_size
    total = 0
    for first, batch in batches:
        for start in range(0, batch.num_rows, ROWS_MEASURED):
            piece = batch.slice(start, ROWS_MEASURED)
            try:
                total += sum(text_bytes(column) for column in piece.columns)
            except IndexError:
                problems.append(
                    f"{name} row {first + start}: broken (names a value that is not there), what follows is lost"
                )
                return
            if total > limit:
                problems.append(
                    f"{name} row {first + start}: unpacks to more than {limit:,} bytes of text (a bomb?), "
                    "what follows is lost"
                )
                return
            yield first + start, piece


def text_bytes(column: Any) -> int:
    """Count the bytes of the text in an Arrow array, each value as often as it occurs.

    Raises:
        IndexError: If it names a value that its dictionary does not have.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_struct(kind):
        return sum(map(text_bytes, column.flatten()))
    if pa.types.is_map(kind):
        return text_bytes(column.keys) + text_bytes(column.items)
    if pa.types.is_nested(kind):
        return text_bytes(column.flatten())
    if not pa.types.is_dictionary(kind):
        return int(column.nbytes)
    lengths = pc.fill_null(pc.binary_length(column.dictionary), 0).to_numpy(zero_copy_only=False)
    places = column.indices.drop_null().to_numpy(zero_copy_only=False)
    if not len(places):
        return 0
    if places.min() < 0:
        raise IndexError("a place before the first")
    return int(lengths[places].sum())


def short(error: BaseException) -> str:
    """Shorten pyarrow's error to one line."""
    return " ".join(str(error).split())[:160]
