"""Checks or writes generated texts of the documentation, whole files or parts.

A part is enclosed by two comments, `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError

ROOT = Path(__file__).parents[2]
# results are measured by the scripts there, which some pages read
sys.path.append(str(ROOT / "benchmarks"))
PAGES = ROOT / "lab/docs/results/paper"

WIDE = "---\nhide: [navigation, toc]\n---\n\n"
"""Before a page with wide tables: leaves the room for them."""


def differing(made: Mapping[Path, str]) -> Iterator[Path]:
    """Report each file that differs from its generated text, or exists although that text is empty."""
    for file, content in made.items():
        if (file.read_text(encoding="utf-8") if file.is_file() else "") != content:
            yield file


def check_or_write(made: Mapping[Path, str]) -> int:
    """Run the command line of a script that makes texts: report the differences, or write the texts with `--write`.

    Args:
        made: Text of each file; a file with an empty text should not exist.

    Returns:
        1 if a text differs and was not written, else 0.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="write the texts")
    write = parser.parse_args().write
    found = list(differing(made))
    for file in found:
        if write:
            put(file, made[file])
        else:
            before = file.read_text(encoding="utf-8") if file.is_file() else ""
            name = str(file.relative_to(ROOT))
            lines = (before.splitlines(), made[file].splitlines())
            print("\n".join(difflib.unified_diff(*lines, name, name, n=0, lineterm="")))
    return int(bool(found) and not write)


def put(file: Path, content: str) -> None:
    """Write a text, or remove its file."""
    if not content:
        file.unlink()
        return
    file.parent.mkdir(exist_ok=True)
    with atomic_file(file) as temporary:
        temporary.write_text(content, encoding="utf-8")


def with_block(content: str, name: str, block: str, of: Path) -> str:
    """Return a text with a block in its place.

    Args:
        content: The text.
        name: Name of the block.
        block: Its new text.
        of: The file of the text, for an error.

    Raises:
        InputError: If the text has no place for it, or more than one.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if content.count(begin) != 1 or content.count(end) != 1:
        raise InputError(f"{of}: needs {begin} and {end} once each, around the table of {name}")
    before, rest = content.split(begin)
    return f"{before}{begin}\n\n{block}\n\n{end}{rest.split(end)[1]}"
