"""Reads untrusted CSV, with bounds on the size of a line, a field and a record.

The `csv` module limits a field (131,072 characters) but not a record: fields may continue over many lines, so a file
without an end of record would be read into memory as a whole.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmpoison.base.untrusted import MAX_LINE_BYTES, read_lines
from mmpoison.errors import InputError

MAX_RECORD = MAX_LINE_BYTES
"""Characters of one record."""


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse a table with two columns of one name, of which one would be lost; an empty name is none.

    Raises:
        InputError: If a name occurs twice, with or without spaces around it.
    """
    counts = Counter(name.strip() for name in names)
    for name, count in counts.items():
        if count > 1 and name:
            raise InputError(
                f"{where}: {count} columns are called {name!r:.80}: give them different names"
            )


class BoundedRows(Iterator[dict[str, str]]):
    """The rows of a CSV file, as from `csv.DictReader` in strict mode.

    Args:
        path: A UTF-8 file with commas between the fields; its first record names the columns.

    Attributes:
        line: Number of the last line that was read.
        columns: Names of the columns, without white space around them.

    Raises:
        InputError: If the file is missing, not regular, not UTF-8, not CSV, has two columns of one name, or a line or
            record is too long; here or while it is read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = 0
        self._lines = read_lines(path)
        self._rows = csv.DictReader(self._counted(), strict=True)
        try:
            self.columns = [(name or "").strip() for name in self._rows.fieldnames or ()]
        except csv.Error as error:
            raise self._broken(error) from None
        check_names(self.columns, f"{path} line 1")
        self._rows.fieldnames = self.columns

    @property
    def line(self) -> int:
        """Number of the last line that was read."""
        return self._rows.reader.line_num

    def __next__(self) -> dict[str, str]:
        self._held = 0
        try:
            return next(self._rows)
        except csv.Error as error:
            raise self._broken(error) from None

    def _broken(self, error: csv.Error) -> InputError:
        return InputError(f"{self._path} line {self.line}: broken CSV ({error})")

    def _counted(self) -> Iterator[str]:
        for line in self._lines:
            self._held += len(line)
            if self._held > MAX_RECORD:
                raise InputError(
                    f"{self._path} line {self.line}: a record of over {MAX_RECORD:,} characters, "
                    "a quote that is never closed?"
                )
            # old Mac files end lines with a carriage return alone
            yield from io.StringIO(line, newline="") if "\r" in line[:-2] else (line,)
