"""Guesses which columns of a table hold images and captions from a sample of their values."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mmpoison.base.phrasing import one_line
from mmpoison.datasets.formats.columns import ColumnNames, find_column, need_column, path_in_root
from mmpoison.errors import InputError, MmpoisonNotice
from mmpoison.images.sources import EXTENSIONS
from mmpoison.pairs.builder import check_relative

SAMPLE_ROWS = 100
"""So many rows are examined."""
SAMPLE_CHARACTERS = 1 << 20
"""After so many characters no further row is examined: a row may be long."""

Sample = Mapping[str, Sequence[str]]
"""Some values of each column of text, by its name."""

ALIKE = 0.8
"""Share of the values that must be paths (or addresses) of images: a few may be broken."""
MOSTLY = 0.6
"""Share of the values that must be sentences: captions may be as short as "a dog"."""
SENTENCE, PHRASE = 3, 2
"""Words of a sentence; of a phrase, which counts where no column holds sentences."""
LONGEST_NAME = 255
"""Characters of a value that is looked for among the files."""
EXAMINED = 500
"""Characters of a value whose words are counted."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://")
_WORD = re.compile(r"[^\W\d_]+")
# scripts that write no spaces between words: two letters count as a word
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def complete_columns(
    names: Sequence[str],
    chosen: ColumnNames,
    where: str,
    root: Path,
    sample: Callable[[], Sample],
    *,
    image: str | None = None,
) -> ColumnNames:
    """Complete a user's choice of columns: by usual names, else by what the columns hold.

    A guess is reported in one line, as a `MmpoisonNotice`.

    Args:
        names: Columns of the table.
        chosen: The user's choice.
        where: The file, for messages.
        root: Folder that image paths start from.
        sample: Reads some values of the columns of text; called only if no column has a usual name.
        image: The column of images, where it is known.

    Returns:
        The choice, with `image_column` and `caption_column` where they were guessed.

    Raises:
        InputError: If no column, or several equally well, hold images or captions; if the first line of a table is
            data.
    """
    known = {
        "image_column": image or find_column(names, chosen, "image_column", where),
        "caption_column": find_column(names, chosen, "caption_column", where),
    }
    if None not in known.values():
        return chosen
    if any(_is_image_path(name) for name in names):
        raise InputError(
            f"{where}: seems to hold a pair, not names of columns: add a first line such as image,caption"
        )
    taken = {name for name in known.values() if name is not None}
    values = {
        name: filled
        for name, column in sample().items()
        if name not in taken and (filled := [text for text in column if text.strip()])
    }
    guessed: dict[str, str] = {}
    if known["image_column"] is None:
        found = _image_candidates(values, root)
        guessed["image_column"] = _the_one(found, "image_column", "paths of images", names, where)
        del values[guessed["image_column"]]
    if known["caption_column"] is None:
        found = _caption_candidates(values)
        guessed["caption_column"] = _the_one(found, "caption_column", "sentences", names, where)
    _report(where, guessed)
    result: ColumnNames = {**chosen, **guessed}  # type: ignore[typeddict-item]
    return result


def sampled_rows(rows: Iterable[Sequence[str]]) -> list[Sequence[str]]:
    """Take the first rows of a table, within the bounds of a sample; at least one where there is one."""
    taken: list[Sequence[str]] = []
    characters = 0
    for row in rows:
        taken.append(row)
        characters += sum(map(len, row))
        if len(taken) >= SAMPLE_ROWS or characters > SAMPLE_CHARACTERS:
            break
    return taken


def _the_one(found: Sequence[str], option: str, kind: str, names: Sequence[str], where: str) -> str:
    if len(found) > 1:
        shown = ", ".join(_shown(name) for name in found[:12])
        raise InputError(
            f"{where}: several columns hold {kind}, {shown}: say which with --option {option}=NAME"
        )
    # raises: none has a usual name
    return found[0] if found else need_column(names, {}, option, where)


def _report(where: str, guessed: Mapping[str, str]) -> None:
    what = ", ".join(
        f"{option.removesuffix('_column')} = {_shown(name)}" for option, name in guessed.items()
    )
    say = " ".join(f"--option {option}=..." for option in guessed)
    warnings.warn(
        f"{where}: columns: {what} (guessed from their content); say it with {say}",
        MmpoisonNotice,
        stacklevel=2,
    )


def _shown(name: str) -> str:
    line = one_line(name)
    return line if len(line) <= 60 else f"{line[:57]}..."


# -- images ----------------------------------------------------------------------------------------


def _image_candidates(values: Sample, root: Path) -> list[str]:
    """Return the columns that hold images, of the surest kind that there is.

    The kinds are paths with the ending of an image, of which those that lie there win; names of files that lie there;
    addresses of images; other addresses.
    """
    paths = _columns(values, _is_image_path)
    if len(paths) > 1:
        found = {name: _share(values[name], lambda text: _lies_there(text, root)) for name in paths}
        best = max(found.values())
        paths = [name for name, share in found.items() if share == best]
    if paths:
        return paths
    return (
        _columns(values, lambda text: _lies_there(text, root))
        or _columns(values, _is_image_address)
        or _columns(values, _is_address)
    )


def _columns(values: Sample, test: Callable[[str], bool], share: float = ALIKE) -> list[str]:
    return [name for name, column in values.items() if _share(column, test) >= share]


def _share(column: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, column)) / len(column)


def _is_address(text: str) -> bool:
    return _ADDRESS.match(text.strip()) is not None


def _is_image_address(text: str) -> bool:
    return _is_address(text) and re.split("[?#]", text)[0].strip().lower().endswith(EXTENSIONS)


def _is_image_path(text: str) -> bool:
    plain = text.strip()
    return (
        len(plain) < 4096
        and "\n" not in plain
        and plain.lower().endswith(EXTENSIONS)
        and not _is_address(plain)
    )


def _lies_there(text: str, root: Path) -> bool:
    """Return whether a value is the path of a file in a folder; nothing is read of it."""
    plain = text.strip()
    if not 0 < len(plain) <= LONGEST_NAME:
        return False
    try:
        return (root / check_relative(path_in_root(plain, root), "")).is_file()
    except (InputError, OSError):
        return False


# -- captions --------------------------------------------------------------------------------------


def _caption_candidates(values: Sample) -> list[str]:
    """Return the columns that hold sentences; where there is none, those that hold phrases.

    A column with one and the same text in every row describes the table, not an image.
    """
    told = {
        name: column for name, column in values.items() if len(column) < 2 or len(set(column)) > 1
    }
    return _columns(told, lambda text: _words(text) >= SENTENCE, MOSTLY) or _columns(
        told, lambda text: _words(text) >= PHRASE, MOSTLY
    )


def _words(text: str) -> int:
    """Count the words of a value; a path or an address has none.

    >>> _words("a sheep on a hill"), _words("a/b/c.jpg"), _words("丘の上の羊")
    (5, 0, 2)
    """
    if _is_image_path(text) or _is_address(text):
        return 0
    part = text[:EXAMINED]
    unspaced = len(_UNSPACED.findall(part))
    return len(_WORD.findall(_UNSPACED.sub(" ", part))) + unspaced // 2
