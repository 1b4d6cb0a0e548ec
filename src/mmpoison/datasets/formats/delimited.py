"""`csv`: a table of image paths and captions, separated by commas, tabs or another character."""

from __future__ import annotations

import csv
import gzip
import io
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Unpack, cast

from mmpoison.base.untrusted import MAX_LINE_BYTES, broken_file, open_bytes
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.columns import (
    SAMPLE_ROWS,
    SAMPLE_SIZE,
    ColumnNames,
    complete_columns,
    infer_root,
    named_columns,
    row_entry,
)
from mmpoison.datasets.own_rows import GoneRows, RowVerdicts
from mmpoison.errors import InputError, MmpoisonNotice
from mmpoison.pairs.builder import ImageEntry, PairRows, is_text
from mmpoison.pairs.table import own_names

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SEPARATORS = ("\t", ",", ";", "|")

MAX_RATIO = 200
"""Largest compression ratio: text compresses about 10 times, one repeated caption 100 times."""
LEAST_UNPACKED = 64 << 20
"""Bytes that a file may unpack to whatever its ratio."""

MAX_REREADS = 100
"""Maximum number of rereads of a file after a quote that is never closed."""


def open_delimited(
    root: Path,
    *,
    separator: str | None = None,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairRows:
    """Open a text table whose first line names its columns. Rows with the same image are one image.

    Args:
        root: The file, or a folder with exactly one.
        separator: One character; by default the one under which the first line has columns of usual names, else the
            most frequent one in it.
        images: Folder that the image paths start from; by default the file's own, or the one that all paths lie in
            where every path is absolute and exists.
        own_columns: Read the other columns too, so that they are written with the pairs again.
        **columns: Which columns are read, see `ColumnNames`.

    Raises:
        InputError: If there is no such file.
    """
    file = _find(root)
    base = Path(images) if images is not None else _root(file, columns, separator)
    entries = _entries(file, base, columns, separator, own_columns)
    return PairRows(base, entries, str(file), own_paths=True, files=[file.name])


def _root(file: Path, columns: ColumnNames, separator: str | None) -> Path:
    """Find the base folder of image paths."""
    stream, most = _open(file)
    with stream:
        table = _again(_Lines(stream, most, file), file.parent, columns, separator)
        image, width = table.columns[0], len(table.header)
        paths = (fields[image] for _, fields, _ in table.records if len(fields) == width)
        return infer_root(paths, file.parent, str(file))


def _again(lines: _Lines, root: Path, columns: ColumnNames, separator: str | None) -> _Table:
    """Read a table's first line again without reporting; the columns are reported when the pairs are read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MmpoisonNotice)
        return _Table.of(lines, root, columns, separator)


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return path
    files = _tables(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5]) or "none"
        raise InputError(
            f"{path}: expected one .csv or .tsv file, found {names}: give the file, or another --format"
        )
    return files[0]


def _tables(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".") and file.is_file()
    )


def _open(file: Path) -> tuple[IO[bytes], float]:
    """Open a file; return it with the number of characters it may unpack to."""
    with open_bytes(file) as raw:
        start = raw.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{file}: is UTF-16: save it as UTF-8")
    if start[:2] == b"\x1f\x8b":
        most = max(LEAST_UNPACKED, MAX_RATIO * file.stat().st_size)
        return cast("IO[bytes]", gzip.open(file)), most
    return file.open("rb"), math.inf


class _Lines:
    """The lines of a file, including those of the current record, so that a reader can return to them."""

    def __init__(self, stream: IO[bytes], most: float, file: Path) -> None:
        self._held = 0
        self._left = most
        # bytes that are not UTF-8 become half surrogates, which do not occur in text
        self._text = io.TextIOWrapper(
            stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        self._ahead: list[str] = []
        self.file = file
        self.problems: list[str] = []
        self.record: list[str] = []
        self.number = 0
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ahead:
            line = self._ahead.pop()
        else:
            try:
                line = self._text.readline(MAX_LINE_BYTES + 1)
            except (EOFError, OSError, zlib.error) as error:
                self.problems.append(
                    broken_file(
                        f"{self.file}: broken after line {self.number} ({error}); the rest is not read"
                    )
                )
                line = ""
            self._left -= len(line)
        if self._left < 0:
            raise InputError(
                f"{self.file}: unpacks to more than {MAX_RATIO} times its size, so it is refused"
            )
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{self.file} line {self.number}: longer than {MAX_LINE_BYTES >> 20} MiB, so it is refused"
            )
        self.record.append(line)
        self._held += len(line)
        if self._held > MAX_LINE_BYTES:
            raise csv.Error(
                f"a record of over {MAX_LINE_BYTES:,} characters (a quote that is never closed?)"
            )
        return line

    def restart(self, head: str) -> None:
        """Put back the first line."""
        self._ahead.append(head)
        self.number = 0
        self.begin()

    def begin(self) -> int:
        """Discard the last record; return the first line number of the next one."""
        self.record = []
        self._held = 0
        return self.number + 1

    def reread(self) -> None:
        """Put back all lines of the record except the first."""
        back = self.record[1:]
        self._ahead.extend(reversed(back))
        self.number -= len(back)
        self.begin()
        self.ended = False


def _records(lines: _Lines, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each record."""
    rereads = 0
    while True:
        first = lines.begin()
        # create a new reader after each failure; one reader suffices otherwise, since it buffers no line
        try:
            for fields in csv.reader(lines, delimiter=separator):
                if lines.ended and _is_open(lines.record, separator):
                    raise csv.Error("a quote is opened and never closed")
                yield first, fields
                first = lines.begin()
            return
        except csv.Error as error:
            what = str(error)
            if "field larger" in what:
                what = f"a field of over {csv.field_size_limit():,} characters (a quote that is never closed?)"
            lines.problems.append(f"{lines.file} line {first}: {what}")
            rereads += 1
            if rereads <= MAX_REREADS:
                lines.reread()


def _is_open(record: list[str], separator: str) -> bool:
    """Check whether a record ends only because the file ends."""
    try:
        for _ in csv.reader(record, delimiter=separator, strict=True):
            pass
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


@dataclass(frozen=True)
class _Table:
    """A table after reading its first line.

    Attributes:
        lines: Its lines. `lines.record` contains those of the last yielded record.
        head: The first line as in the file.
        header: Names of the columns.
        columns: Positions of image and caption, and of label and split if present.
        names: Names of these columns.
        records: First line number, fields and text of each record.
    """

    lines: _Lines
    head: str
    header: list[str]
    columns: tuple[int, int, int | None, int | None]
    names: tuple[str, str, str | None, str | None]
    records: Iterator[tuple[int, list[str], str]]

    @classmethod
    def of(cls, lines: _Lines, root: Path, chosen: ColumnNames, separator: str | None) -> _Table:
        """Read the first line, and find the columns."""
        file, problems = lines.file, lines.problems
        try:
            head = next(lines)
        except StopIteration:
            raise InputError(problems[-1] if problems else f"{file}: is empty") from None
        if not is_text(head) or "\x00" in head:
            raise InputError(f"{file}: its first line is not UTF-8 text")
        separator = _separator(head, file, chosen) if separator is None else _unescape(separator)
        lines.restart(head)
        records = _records(lines, separator)
        _, header = next(records, (1, []))
        head = "".join(lines.record)
        if not header:
            raise InputError(problems[-1] if problems else f"{file}: its first line is empty")
        whole = ((number, fields, "".join(lines.record)) for number, fields in records)
        ahead: list[tuple[int, list[str], str]] = []

        def sample() -> dict[str, list[str]]:
            ahead.extend(_first_records(whole))
            rows = [fields for _, fields, _ in ahead if len(fields) == len(header)]
            return {name: [fields[place] for fields in rows] for place, name in enumerate(header)}

        chosen = complete_columns(header, chosen, f"{file} line 1", root, sample)
        names = named_columns(header, chosen, f"{file} line 1")
        image, caption = (header.index(name) for name in names[:2])
        label, split = (None if name is None else header.index(name) for name in names[2:])
        columns = (image, caption, label, split)
        return cls(lines, head, header, columns, names, chain(ahead, whole))


def _entries(
    file: Path, root: Path, chosen: ColumnNames, separator: str | None, own_columns: bool
) -> Iterator[ImageEntry | str]:
    stream, most = _open(file)
    with stream:
        lines = _Lines(stream, most, file)
        table = _Table.of(lines, root, chosen, separator)
        header, problems = table.header, lines.problems
        image, caption, label, split = table.columns
        own = own_names(header, filter(None, table.names)) if own_columns else {}
        for number, fields, _ in table.records:
            yield from problems
            problems.clear()
            where = f"{file} line {number}"
            if not any(fields):
                continue
            fault = _fault(fields, header)
            yield (
                f"{where}: {fault}"
                if fault
                else row_entry(
                    fields[image],
                    [fields[caption]],
                    where,
                    root,
                    label=None if label is None else fields[label],
                    split=None if split is None else fields[split],
                    own={name: fields[place] for place, name in own.items()},
                    at=(0, number),
                )
            )
        yield from problems


RECORDS_AT_ONCE = 4096


def sort_delimited(
    root: Path,
    out: Path,
    verdicts: RowVerdicts,
    *,
    separator: str | None = None,
    images: str | Path | None = None,
    **columns: Unpack[ColumnNames],
) -> Iterator[GoneRows]:
    """Write `kept.csv` or `kept.tsv`, the table without dropped rows, verbatim; yield the dropped rows.

    Args:
        root: The table.
        out: Folder of what is written.
        verdicts: Which pairs stay.
        separator: As for `open_delimited`.
        images: As for `open_delimited`.
        **columns: As for `open_delimited`.
    """
    import pyarrow as pa

    file = _find(root)
    base = file.parent if images is None else Path(images)
    target = out / ("kept.tsv" if ".tsv" in file.name.lower() else "kept.csv")
    stream, most = _open(file)
    with stream, target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as kept:
        table = _again(_Lines(stream, most, file), base, columns, separator)
        kept.write(table.head)
        none: list[Any] = [pa.array([], pa.string())] * len(table.header)
        yield GoneRows.of(0, (), pa.Table.from_arrays(none, names=table.header))
        while records := list(islice(table.records, RECORDS_AT_ONCE)):
            found = verdicts.between(0, records[0][0], records[-1][0] + 1)
            gone: list[tuple[int, list[str]]] = []
            for number, fields, text in records:
                verdict = found.get(number)
                if verdict is not None and verdict.stay:
                    kept.write(text)
                elif verdict is not None:
                    gone.append((number, fields))
            if gone:
                cells: list[Any] = [
                    pa.array(values, pa.string())
                    for values in zip(*(fields for _, fields in gone), strict=True)
                ]
                yield GoneRows.of(
                    0,
                    ((number, 0) for number, _ in gone),
                    pa.Table.from_arrays(cells, names=table.header),
                )


def _fault(fields: list[str], header: list[str]) -> str | None:
    """Describe the problem with a row's fields."""
    if len(fields) != len(header):
        return (
            f"has {len(fields)} fields, but the header has {len(header)} "
            "(a separator or a line break without quotes?)"
        )
    if not all(map(is_text, fields)):
        return "not UTF-8"
    return "holds a zero byte" if any("\x00" in text for text in fields) else None


def _first_records(
    records: Iterable[tuple[int, list[str], str]],
) -> list[tuple[int, list[str], str]]:
    """Return the records for detecting columns, at least one if there is one."""
    taken: list[tuple[int, list[str], str]] = []
    size = 0
    for record in records:
        fields = record[1]
        taken.append(record)
        size += len(fields) + sum(map(len, fields))
        if len(taken) >= SAMPLE_ROWS or size > SAMPLE_SIZE:
            break
    return taken


def _separator(head: str, file: Path, chosen: ColumnNames) -> str:
    """Find the separator with which the first line names an image and a caption."""
    order = sorted(SEPARATORS, key=lambda s: s != "\t") if ".tsv" in file.name else SEPARATORS
    for separator in order:
        try:
            header = next(csv.reader([head], delimiter=separator), [])
        except csv.Error as error:
            raise InputError(f"{file}: the first line cannot be read ({error})") from None
        try:
            named_columns(header, chosen, str(file))
            return separator
        except InputError:
            continue
    # the content of the columns determines which these are
    return max(order, key=head.count)


def _unescape(separator: str) -> str:
    # a shell passes \t as two characters
    plain = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(plain) != 1 or plain in '"\r\n':
        raise InputError(f"separator {separator!r}: give one character")
    return plain


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.name.lower().endswith(ENDINGS) else None
    files = _tables(path)
    # several files also match: loading reports that one must be chosen
    return files[0].name if files else None


register_format(
    open_delimited,
    name="csv",
    summary="a .csv or .tsv table (also .gz) of image paths and captions, one pair per row, as for open_clip",
    where_from="your own file, with column names in the first line",
    recognise=_recognise,
    priority=1,
    streams=False,
    sort_rows=sort_delimited,
)
