"""Reads rows of Parquet and Arrow tables, checking bounds before decoding."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import LeftOut, broken_file, check_names, parse_json
from mmpoison.datasets.formats.columns import (
    SAMPLE_ROWS,
    ColumnNames,
    Sample,
    complete_columns,
    find_column,
    infer_root,
    named_columns,
    row_entry,
)
from mmpoison.datasets.own_rows import GoneRows, RowVerdicts, gone_places
from mmpoison.errors import InputError, MmpoisonNotice
from mmpoison.images.containers import arrow_errors, default_image_column, holds_bytes, short
from mmpoison.pairs.builder import ImageEntry, PairRows, is_text
from mmpoison.pairs.table import CAPTION_COLUMNS, own_names

# -- Reads the files of a table one after another.


BatchReader = Callable[[list[str], bool], Iterator[tuple[int, Any]]]
"""`read(columns, sample)` yields record batches of some columns, each with the number of its first row.

Batches of a sample are small.
"""


@dataclass(frozen=True)
class TableFile:
    """One file of a table.

    Attributes:
        path: The file.
        name: Its path relative to the root, for image ids and messages.
        split: The split of its rows, if no column defines it.
        open: `open(file, problem)` returns its schema and a batch reader, or None after reporting a problem.
    """

    path: Path
    name: str
    split: str | None
    open: Callable[[TableFile, Callable[[str], None]], tuple[Any, BatchReader] | None]


def open_tables(
    folder: Path,
    files: Sequence[TableFile],
    what: str,
    *,
    images: str | Path | None,
    own_columns: bool,
    chosen: ColumnNames,
    refused: Iterable[str] = (),
) -> PairRows:
    """Open the files of one table. The first readable file decides which columns are read.

    Args:
        folder: The folder that file names are relative to.
        files: The files, in order.
        what: What is read, for messages.
        images: Folder that image paths start from; `folder` where images are bytes in the files. By default `folder`,
            or the one that all paths lie in where every path is absolute and exists.
        own_columns: Read the user's own columns too.
        chosen: The user's choice of columns.
        refused: One line for each refused file.

    Raises:
        InputError: If columns are missing or have an unusable type.
    """
    root = folder if images is None else Path(images)
    chosen, columns = _first_columns(files, root, chosen)
    inside = columns is not None and columns.inside
    if inside:
        root = folder  # the bytes are in the files, wherever other images are
    elif columns is not None and images is None:
        root = infer_root(_paths(files, columns.image), folder, what)
    entries = chain(refused, _entries(files, root, chosen, own_columns, inside))
    names = [file.name for file in files]
    return PairRows(root, entries, what, own_paths=True, folder=folder, files=names)


def _opened(files: Sequence[TableFile]) -> Iterator[tuple[int, TableFile, Any, BatchReader]]:
    """Yield index, schema and reader of each readable file. Others are reported when the pairs are read."""
    for number, file in enumerate(files):
        try:
            opened = file.open(file, lambda line: None)
        except arrow_errors():
            continue
        if opened is not None:
            yield number, file, *opened


def _first_columns(
    files: Sequence[TableFile], root: Path, chosen: ColumnNames
) -> tuple[ColumnNames, TableColumns | None]:
    """Choose columns from the first readable file; return None if there is none."""
    for _, file, schema, read in _opened(files):
        chosen = _complete(chosen, file, schema, read, root)
        # raises for missing columns, with the message for the first file
        return chosen, choose_columns(schema, chosen, str(file.path))
    return chosen, None


def _complete(
    chosen: ColumnNames, file: TableFile, schema: Any, read: BatchReader, root: Path
) -> ColumnNames:
    """Complete the user's choice of columns by the content of text columns, see `complete_columns`.

    Raises:
        InputError: As `complete_columns`.
    """
    texts = [
        field.name for field in schema if is_text_type(field.type) or is_list_of_text(field.type)
    ]

    def sample() -> Sample:
        try:
            batches = read(texts, True) if texts else ()
            bounded = bounded_batches(batches, file.path, file.name, [])
            for _, batch in bounded:
                return {name: _texts(batch.column(name)) for name in texts}
        except arrow_errors():
            pass  # reading says so
        return {}

    image = chosen.get("image") or default_image_column(schema)
    return complete_columns(list(schema.names), chosen, str(file.path), root, sample, image=image)


def _texts(column: Any) -> list[str]:
    """Return the first values of a text column; for lists, the first text of each."""
    values = values_of(column.slice(0, SAMPLE_ROWS))
    lists = (value if isinstance(value, list) else [value] for value in values)
    return [text for texts in lists for text in texts[:TEXTS_OF_A_LIST] if isinstance(text, str)]


def _paths(files: Sequence[TableFile], column: str) -> Iterator[str]:
    """Yield the values of the image column, as far as files are readable."""
    for _, file, schema, read in _opened(files):
        broken: tuple[type[Exception], ...] = (*arrow_errors(), InputError)
        try:
            batches = read([column], False) if column in schema.names else ()
            for _, batch in bounded_batches(batches, file.path, file.name, []):
                yield from filter(None, values_of(batch.column(column)))
        except broken:
            continue  # reading says it


BATCHES_A_GROUP = 64
BYTES_A_BATCH = 16 << 20
"""Bytes per written batch.

A row group has a fixed number of batches of `ROWS_MEASURED` rows, fewer if they are larger.
"""


def sort_tables(
    files: Sequence[TableFile],
    folder: Path,
    verdicts: RowVerdicts,
    writer: Callable[[TableFile, Any], AbstractContextManager[Any]],
    *,
    images: str | Path | None = None,
    chosen: ColumnNames,
) -> Iterator[GoneRows]:
    """Write the kept rows of tables without dropped captions, and yield the dropped pairs.

    Args:
        files: As for `open_tables`, like the further options.
        folder: The folder that file names are relative to.
        verdicts: Which pairs stay.
        writer: `writer(file, schema)` opens what takes record batches (`write_batch`).
        images: Folder that image paths start from.
        chosen: The user's choice of columns.
    """
    import pyarrow as pa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MmpoisonNotice)  # already reported on first reading
        chosen, _ = _first_columns(files, folder if images is None else Path(images), chosen)
    for number, file, schema, read in _opened(files):
        try:
            columns = choose_columns(schema, chosen, file.name, own_columns=True)
        except InputError:
            continue  # none of its rows was judged
        own = [field.name for field in schema if not _has_bytes(field.type)]
        lists = [columns.captions, *([CAPTION_COLUMNS] if columns.caption_columns else [])]
        wanted = pa.schema([schema.field(name) for name in own])
        yield GoneRows.of(number, (), wanted.empty_table())
        problems: list[str] = []
        batches = bounded_batches(read(list(schema.names), False), file.path, file.name, problems)
        copied = 0
        waiting: list[Any] = []
        with writer(file, schema) as kept:
            for first, batch in batches:
                found = verdicts.between(number, first, first + batch.num_rows)
                copied += len(found)
                rows = [row - first for row, verdict in found.items() if verdict.stay]
                part = batch.take(pa.array(rows, pa.int64()))
                stay = [v.stay if v.go else None for v in found.values() if v.stay]
                table = pa.Table.from_batches([part]).cast(schema)
                for name in lists if any(stay) else ():
                    values = values_of(table[name].combine_chunks())
                    shorter = [
                        value if places is None or value is None else [value[n] for n in places]
                        for value, places in zip(values, stay, strict=True)
                    ]
                    field = schema.field(name)
                    place = schema.get_field_index(name)
                    table = table.set_column(place, field, pa.array(shorter, field.type))
                waiting.append(table)
                if len(waiting) >= BATCHES_A_GROUP or table.nbytes > BYTES_A_BATCH:
                    kept.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting.clear()
                places = list(gone_places(found))
                if places:
                    rows = [row - first for row, _ in places]
                    gone = pa.Table.from_batches([batch.select(own).take(pa.array(rows))])
                    yield GoneRows.of(number, places, gone.cast(wanted))
            if waiting:
                kept.write_table(pa.concat_tables(waiting).combine_chunks())
        if copied < verdicts.rows(number):
            why = f" ({problems[0]})" if problems else ""
            raise InputError(
                f"{file.name}: {verdicts.rows(number) - copied:,} rows cannot be rewritten, because their other "
                f"columns are broken{why}: remove these columns from the file"
            )


def _entries(
    files: Sequence[TableFile],
    root: Path,
    chosen: ColumnNames,
    own_columns: bool,
    inside: bool,
) -> Iterator[ImageEntry | str]:
    for number, file in enumerate(files):
        problems: list[str] = []
        try:
            opened = file.open(file, problems.append)
            if opened is not None:
                schema, read = opened
                columns = choose_columns(schema, chosen, file.name, own_columns=own_columns)
                if columns.inside != inside:
                    kind = "bytes" if columns.inside else "paths"
                    yield broken_file(
                        f"{file.name}: contains {kind} of images, but the first file does not"
                    )
                    continue
                batches = read(columns.needed, False)
                bounded = bounded_batches(batches, file.path, file.name, problems)
                yield from entries_of(bounded, columns, file, root, number)
        except InputError as error:
            yield broken_file(str(error))
        except arrow_errors() as error:
            kind = file.path.suffix[1:].title()
            yield broken_file(f"{file.name}: broken {kind} file ({short(error)})")
        yield from map(_whole_file, problems)


def _whole_file(line: str) -> LeftOut:
    """Return a message about a file that cannot be read to the end."""
    return line if isinstance(line, LeftOut) else broken_file(line)


# -- Finds the columns of images, captions, labels and splits in a Parquet or Arrow table, and reads values.


TEXTS_OF_A_LIST = 5
"""Captions examined per image."""


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that pairs are built from.

    Attributes:
        image: Column of the images.
        inside: Whether it contains image bytes instead of paths.
        captions: Column of strings, or lists of strings.
        label, split, categories: Further columns, or None.
        label_names: Class names, if labels are class numbers.
        own: The user's own columns, with their names in a table of pairs.
        caption_columns: Whether a column contains the captions' own columns.
        default_image: Whether a reader that knows only the file would choose the same image column.
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
        """The columns needed for a table, without image bytes."""
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
        schema: Arrow schema. Hugging Face's features in its metadata contain class names.
        chosen: The user's choice of columns.
        where: The file, for messages.
        own_columns: Whether to include the user's own columns: all others except bytes.

    Raises:
        InputError: If a column is missing or has an unusable type.
    """
    names = list(schema.names)
    check_names(names, where)
    default = default_image_column(schema)
    known: ColumnNames = {**chosen, "image": chosen.get("image") or default}
    image, captions, label, split = named_columns(names, known, where)
    inside = holds_bytes(schema.field(image).type)
    if not inside and not is_text_type(schema.field(image).type):
        raise InputError(
            f"{where}: column {image!r} holds {schema.field(image).type}, not images: expected paths or bytes"
        )
    if inside and image != default and "/" in image:
        raise InputError(
            f"{where}: an image column cannot have a slash in its name, as {image!r} has"
        )
    if not (
        is_text_type(schema.field(captions).type) or is_list_of_text(schema.field(captions).type)
    ):
        raise InputError(
            f"{where}: column {captions!r} holds {schema.field(captions).type}, not captions: expected a string or a "
            "list of strings"
        )
    categories = find_column(names, {}, "categories", where)
    if categories is not None and not is_list_of_text(schema.field(categories).type):
        categories = None
    several = CAPTION_COLUMNS in names and is_list_of_text(schema.field(CAPTION_COLUMNS).type)
    named: dict[str, str] = {}
    if own_columns:
        used = {image, captions, label, split, categories, CAPTION_COLUMNS if several else None}
        free = [f.name for f in schema if f.name not in used and not _has_bytes(f.type)]
        named = {free[place]: name for place, name in own_names(free, ()).items()}
    return TableColumns(
        image,
        inside,
        captions,
        label,
        split,
        categories,
        _class_names(schema, label),
        not inside or image == default,
        named,
        own_columns and several,
    )


def _has_bytes(kind: Any) -> bool:
    """Check whether an Arrow type can contain bytes, which JSON lacks."""
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
    """Check whether an Arrow type is a string, plain or dictionary-encoded."""
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return is_text_type(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_list_of_text(kind: Any) -> bool:
    """Check whether an Arrow type is a list of strings."""
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

    Text that is not UTF-8, and times outside Python's range, become text that cannot be written.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        # each value is a single object, however often it occurs
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


ROWS_MEASURED = 64

ROW_BYTES = 300
"""Bytes per row in addition to its text: 20 kB of Parquet can contain three million equal rows."""

MOST_TEXT = 256 << 20
TEXT_PER_BYTE = 100
"""Bytes of text allowed per byte of a file, in addition to `MOST_TEXT`."""


def entries_of(
    batches: Iterable[tuple[int, Any]],
    columns: TableColumns,
    file: TableFile,
    root: Path,
    number: int,
) -> Iterator[ImageEntry | str]:
    """Yield the entries of one file, row by row.

    Args:
        batches: Its record batches, with at least the needed columns, each with its first row number.
        columns: Which columns.
        file: The file.
        root: Root of image paths.
        number: Number of the file.

    Yields:
        An entry, or a message about a left-out row.
    """
    prefix = file.name if columns.default_image else f"{file.name}/{columns.image}"
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
            where = f"{file.name} row {row}"
            if text is None:
                yield f"{where}: has no caption"
                continue
            yield row_entry(
                f"{prefix}/{row}" if columns.inside else image or "",
                text if isinstance(text, list) else [text],
                where,
                None if columns.inside else root,
                label=_label(label, columns.label_names),
                split=own_split,
                file_split=file.split,
                categories=[n for n in several or () if isinstance(n, str) and is_text(n)],
                alone=columns.inside,
                own={name: values[row - first] for name, values in own.items()},
                own_captions=_caption_columns(own_captions[row - first], where),
                at=(number, row),
            )


def _caption_columns(value: Any, where: str) -> list[dict[str, Any]] | None:
    """Read the captions' own columns, one JSON object each; other values are ignored."""
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
    if value is None:
        return None
    if names and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return str(value)


def bounded_batches(
    batches: Iterable[tuple[int, Any]], path: Path, name: str, problems: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield a file's batches up to a limit on total text: a small file may repeat one text many times.

    Args:
        batches: Batches, each with its first row number.
        path: The file.
        name: Its name in messages.
        problems: Receives a message if the limit is exceeded.
    """
    limit = MOST_TEXT + TEXT_PER_BYTE * path.stat().st_size
    total = 0
    for first, batch in batches:
        for start in range(0, batch.num_rows, ROWS_MEASURED):
            piece = batch.slice(start, ROWS_MEASURED)
            try:
                total += ROW_BYTES * piece.num_rows
                total += sum(text_bytes(column) for column in piece.columns)
            except IndexError:
                problems.append(
                    f"{name} row {first + start}: broken (refers to a missing value); the rest is not read"
                )
                return
            if total > limit:
                problems.append(
                    f"{name} row {first + start}: unpacks to more than {limit:,} bytes of text (a decompression "
                    "bomb?); the rest is not read"
                )
                return
            yield first + start, piece


def text_bytes(column: Any) -> int:
    """Count the bytes of text in an Arrow array, counting repeated values.

    Raises:
        IndexError: If an index exceeds its dictionary.
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
        raise IndexError("a position before the first row")
    return int(lengths[places].sum())
