"""Detects that the files of a table of pairs have changed while they were read.

A set is read more than once: its table first, its images later, both again when they are written. What was checked must
be what is used, so the state of each file (size, time of change, inode) is noted and compared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmpoison.images.file_states import changed_error, state_of

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".tar")
"""Endings of the files that tables of pairs are read from."""


@dataclass(frozen=True)
class TableStates:
    """The states of the files that a table of pairs was read from.

    Attributes:
        place: The folder or file that was read.
        files: Relative paths of the files there.
        states: The state of each, shape `(n,)`.
    """

    place: Path
    files: tuple[str, ...]
    states: tuple[int, ...]

    @classmethod
    def of(cls, place: Path) -> TableStates:
        """Note the states of a file; or of the tables in a folder and in the folders in it."""
        files = tuple(_tables(place))
        return cls(place, files, tuple(state_of(_path(place, name)) for name in files))

    def changed(self) -> list[Path]:
        """List the files that have changed or disappeared; new files were not read and do not count."""
        paths = [_path(self.place, name) for name in self.files]
        return [
            Path(path)
            for path, before in zip(paths, self.states, strict=True)
            if state_of(path) != before
        ]

    def check(self) -> None:
        """Refuse tables that have changed since.

        Raises:
            InputError: If one has.
        """
        if changed := self.changed():
            raise changed_error(changed)


def _tables(place: Path) -> list[str]:
    if not place.is_dir():
        return [""]
    if (place / "captions.jsonl").is_file():
        # our own format: labels and results may lie in the same folder
        return ["captions.jsonl", "manifest.json"]
    found: list[str] = []
    try:
        with os.scandir(place) as entries:
            folders = []
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name.endswith(TABLE_SUFFIXES):
                    found.append(entry.name)
        for folder in folders:
            if folder.startswith("."):
                continue
            with os.scandir(place / folder) as entries:
                found += [f"{folder}/{e.name}" for e in entries if e.name.endswith(TABLE_SUFFIXES)]
    except OSError:
        pass  # who reads it says it
    return sorted(found)


def _path(place: Path, name: str) -> str:
    return f"{place}/{name}" if name else str(place)
