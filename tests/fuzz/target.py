"""What is fuzzed: a folder as its owner would write it, the files in it that are changed, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 512 << 20
"""Bytes that one input may take."""

Case = dict[str, bytes]
"""An input: the bytes of each file that is changed, by its name in the folder."""


@dataclass(frozen=True)
class Target:
    """A parser, as the command line uses it.

    Attributes:
        name: What it is called in the figures.
        build: Writes valid examples below a folder: all files, of which those in `files` are changed.
        files: Relative name of each file that is changed, and its kind (see `mutate`).
        read: Reads the folder; returns, or raises `InputError` or `ResultError`.
        keys: Keys of this format with values worth trying.
        models: Whether models are built, which takes longer.
        examples: More valid contents of files, each a part of a case.
        memory: Bytes that one input may take beyond what the process has.
    """

    name: str
    build: Callable[[Path], Any]
    files: Mapping[str, str]
    read: Callable[[Path], Any]
    keys: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    models: bool = False
    examples: Callable[[], list[Case]] = list
    memory: int = MEMORY
