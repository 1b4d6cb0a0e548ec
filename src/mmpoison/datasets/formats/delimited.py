"""`csv`: a table of image paths and captions, separated by commas, tabs or another character."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Unpack, cast

from mmpoison.base.untrusted import MAX_LINE_BYTES, MAX_RECORD, open_bytes
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.columns import (
    SAMPLE_ROWS,
    SAMPLE_SIZE,
    ColumnNames,
    complete_columns,
    named_columns,
    row_entry,
)
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry, PairRows, is_text
from mmpoison.pairs.own_columns import own_names

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SEPARATORS = ("\t", ",", ";", "|")

MAX_RATIO = 200
"""Text is packed to a tenth of its size, the same caption again and again to a hundredth."""
LEAST_UNPACKED = 64 << 20
"""Bytes that a file of any ratio may unpack to."""

MAX_REREADS = 100
"""How often a file is read again behind a quote that is never closed."""


def open_delimited(
    root: Path,
    *,
    separator: str | None = None,
    images: str | Path | None = None,
    own_columns: bool = False,
    own_paths: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairRows:
    """Open a table of text whose first line names its columns; rows with the same image are one image.

    Args:
        root: The file, or a folder with exactly one.
        separator: One character; by default the one under which the first line has columns of usual names, else the
            most frequent one in it.
        images: Folder that the image paths start from; the file's own by default.
        own_columns: Read the other columns too, so that they are written with the pairs again.
        own_paths: With them the paths of images as the table has them, so that what is written can be joined with it.
        **columns: Which columns are read, see `ColumnNames`.

    Raises:
        InputError: If there is no such file.
    """
    file = _find(root)
    base = file.parent if images is None else Path(images)
    entries = _entries(file, base, columns, separator, (own_columns, own_paths))
    return PairRows(base, entries, str(file), own_paths=True)


def _find(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return path
    files = _tables(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5]) or "none"
        raise InputError(
            f"{path}: one .csv or .tsv file is needed, it has {names}: name the file, or another --format"
        )
    return files[0]


def _tables(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".") and file.is_file()
    )


def _open(file: Path) -> tuple[IO[bytes], float]:
    """Open a file, and say to how many characters it may unpack."""
    with open_bytes(file) as raw:
        start = raw.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{file}: is UTF-16, save it as UTF-8")
    if start[:2] == b"\x1f\x8b":
        most = max(LEAST_UNPACKED, MAX_RATIO * file.stat().st_size)
        return cast("IO[bytes]", gzip.open(file)), most
    return file.open("rb"), math.inf


class _Lines:
    """The lines of a file, with those of the record being read, so that a reader can go back to them."""

    def __init__(self, stream: IO[bytes], most: float, file: Path) -> None:
        self._held = 0
        self._left = most
        # bytes that are no UTF-8 become half surrogates, which no text has
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
                    f"{self.file}: broken after line {self.number} ({error}), the rest is not read"
                )
                line = ""
            self._left -= len(line)
        if self._left < 0:
            raise InputError(
                f"{self.file}: unpacks to more than {MAX_RATIO} times its size, it is refused"
            )
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(
                f"{self.file} line {self.number}: longer than {MAX_LINE_BYTES >> 20} MiB, it is refused"
            )
        self.record.append(line)
        self._held += len(line)
        if self._held > MAX_RECORD:
            raise csv.Error(
                f"a record of over {MAX_RECORD:,} characters, a quote that is never closed?"
            )
        return line

    def restart(self, head: str) -> None:
        """Put back the first line."""
        self._ahead.append(head)
        self.number = 0
        self.begin()

    def begin(self) -> int:
        """Forget the last record; gives the number of the first line of the next."""
        self.record = []
        self._held = 0
        return self.number + 1

    def reread(self) -> None:
        """Put back all lines of the record but its first."""
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
        # a new reader each time it fails; one reader else, since it holds no line back
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
                what = f"a field of over {csv.field_size_limit():,} characters, a quote that is never closed?"
            lines.problems.append(f"{lines.file} line {first}: {what}")
            rereads += 1
            if rereads <= MAX_REREADS:
                lines.reread()


def _is_open(record: list[str], separator: str) -> bool:
    """Return whether a record ends only because the file ends."""
    try:
        for _ in csv.reader(record, delimiter=separator, strict=True):
            pass
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False


def _entries(
    file: Path, root: Path, chosen: ColumnNames, separator: str | None, read: tuple[bool, bool]
) -> Iterator[ImageEntry | str]:
    stream, most = _open(file)
    with stream:
        lines = _Lines(stream, most, file)
        yield from _rows(lines, root, chosen, separator, read)
        yield from lines.problems


def _rows(
    lines: _Lines, root: Path, chosen: ColumnNames, separator: str | None, read: tuple[bool, bool]
) -> Iterator[ImageEntry | str]:
    file, problems = lines.file, lines.problems
    try:
        head = next(lines)
    except StopIteration:
        raise InputError(problems[-1] if problems else f"{file}: is empty") from None
    if not is_text(head) or "\x00" in head:
        raise InputError(f"{file}: its first line is not text in UTF-8")
    separator = _separator(head, file, chosen) if separator is None else _unescape(separator)
    lines.restart(head)
    records = _records(lines, separator)
    _, header = next(records, (1, []))
    if not header:
        raise InputError(problems[-1] if problems else f"{file}: its first line is empty")
    ahead: list[tuple[int, list[str]]] = []

    def sample() -> dict[str, list[str]]:
        ahead.extend(_first_records(records))
        rows = [fields for _, fields in ahead if len(fields) == len(header)]
        return {name: [fields[place] for fields in rows] for place, name in enumerate(header)}

    chosen = complete_columns(header, chosen, f"{file} line 1", root, sample)
    columns = named_columns(header, chosen, f"{file} line 1")
    image, caption = (header.index(name) for name in columns[:2])
    label, split = (None if name is None else header.index(name) for name in columns[2:])
    own_columns, own_paths = read
    # the first of the columns is that of images
    own = own_names(header, filter(None, columns[own_paths:])) if own_columns else {}
    for number, fields in chain(ahead, records):
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
            )
        )


def _fault(fields: list[str], header: list[str]) -> str | None:
    """Say what is wrong with the fields of a row."""
    if len(fields) != len(header):
        return (
            f"has {len(fields)} fields, the header has {len(header)} "
            "(a separator or a line break without quotes?)"
        )
    if not all(map(is_text, fields)):
        return "not UTF-8"
    return "holds a zero byte" if any("\x00" in text for text in fields) else None


def _first_records(records: Iterable[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Take the records that columns are found by; at least one where there is one."""
    taken: list[tuple[int, list[str]]] = []
    size = 0
    for number, fields in records:
        taken.append((number, fields))
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
    # which columns these are is found by what they hold
    return max(order, key=head.count)


def _unescape(separator: str) -> str:
    # a shell passes \t as two characters
    plain = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(plain) != 1 or plain in '"\r\n':
        raise InputError(f"separator {separator!r}: one character is needed")
    return plain


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.name.lower().endswith(ENDINGS) else None
    files = _tables(path)
    # several are recognised too: loading says that one of them is needed
    return files[0].name if files else None


register_format(
    open_delimited,
    name="csv",
    summary="a .csv or .tsv table (also .gz) of image paths and captions, one pair a row, as open_clip trains on",
    where_from="a file of your own, its first line names the columns",
    recognise=_recognise,
    priority=1,
    streams=False,
)
