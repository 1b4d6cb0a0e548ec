"""Columns of other people's tables: which hold images and captions, by their values and their usual names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from mmpoison.base.phrasing import one_line
from mmpoison.base.registry import unknown_name
from mmpoison.base.untrusted import LeftOut, check_names
from mmpoison.errors import InputError, MmpoisonNotice
from mmpoison.images.containers import IMAGE_NAMES, usual_column
from mmpoison.images.sources import EXTENSIONS
from mmpoison.pairs.builder import ImageEntry, check_relative
from mmpoison.pairs.own_columns import own_values
from mmpoison.pairs.table import SPLITS


class ColumnNames(TypedDict, total=False):
    """The columns of a table; those that are not given are found, see `complete_columns`.

    Attributes:
        image: Column of images: paths, or bytes where the format holds them.
        caption: Column of captions: a string, or a list of strings where the format has lists.
        label: Column of classes.
        split: Column of splits.
    """

    image: str | None
    caption: str | None
    label: str | None
    split: str | None


USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": IMAGE_NAMES,
    "caption": (
        "captions", "caption", "title", "text", "texts", "sentence", "sentences", "comment",
    ),
    "label": ("label", "class", "category"),
    "split": ("split",),
    "categories": ("categories",),
}  # fmt: skip
"""Usual names of each column, the likeliest first."""

SAMPLE_ROWS = 100
"""So many rows are examined."""
SAMPLE_SIZE = 1 << 20
"""After so many characters and fields no further row is examined: a row may be long."""

Sample = Mapping[str, Sequence[str]]
"""Some values of each column of text, by its name."""

MOST = 0.8
"""Share of a column's values that decides what it holds: a few may be broken."""
LONGEST_PATH = 255
"""Characters of a value that is looked for among the files."""
EXAMINED = 500
"""Characters of a text whose letters are counted."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://")

_SPLITS = {
    **{name: name for name in SPLITS},
    "training": "train",
    # the part of COCO's validation images that Karpathy's split gives to training
    "restval": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}


def find_column(names: Sequence[str], chosen: ColumnNames, option: str, where: str) -> str | None:
    """Find the column that an option names, or the first one with a recognised name.

    Args:
        names: Columns of the table.
        chosen: The user's choice.
        option: Key of `USUAL_NAMES`, such as `image`.
        where: The file, for the message.

    Raises:
        InputError: If the user's choice is not there.

    >>> find_column(["Filepath", " title "], {}, "caption", "a.csv")
    ' title '
    """
    wanted = chosen.get(option)
    if wanted is None:
        return usual_column(names, USUAL_NAMES[option])
    # a column called 1 comes as a number from a recipe
    if str(wanted) in names:
        return str(wanted)
    raise InputError(f"{where}: {option}: {unknown_name('column', str(wanted), list(names))}")


def need_column(names: Sequence[str], chosen: ColumnNames, option: str, where: str) -> str:
    """Find a column as `find_column` does; refuse a table without it and name the option.

    Raises:
        InputError: If there is none.
    """
    column = find_column(names, chosen, option, where)
    if column is None:
        raise InputError(
            f"{where}: no column holds {option}s: say which with --option {option}=NAME, "
            f"one of {_listed(names) or 'none'}"
        )
    return column


def named_columns(
    names: Sequence[str], chosen: ColumnNames, where: str
) -> tuple[str, str, str | None, str | None]:
    """Find the columns of images and captions, which are needed, and those of labels and splits.

    Raises:
        InputError: If one is missing that is needed, or that the user names.
    """
    return (
        need_column(names, chosen, "image", where),
        need_column(names, chosen, "caption", where),
        find_column(names, chosen, "label", where),
        find_column(names, chosen, "split", where),
    )


# -- by what they hold -----------------------------------------------------------------------------


def complete_columns(
    names: Sequence[str],
    chosen: ColumnNames,
    where: str,
    root: Path,
    sample: Callable[[], Sample],
    *,
    image: str | None = None,
) -> ColumnNames:
    """Complete a user's choice of the columns of images and captions by what the columns hold.

    Images are in the column whose values name files, captions in a column of text: the one with a usual name, or the
    longest. Where this is not what the names alone say, one line reports it, as a `MmpoisonNotice`.

    Args:
        names: Columns of the table.
        chosen: The user's choice.
        where: The file, for messages.
        root: Folder that image paths start from.
        sample: Reads some values of the columns of text; called only if there is something to find.
        image: The column of images, where it is known.

    Returns:
        The choice, with `image` and `caption` where the names alone do not say them.

    Raises:
        InputError: If two columns have one name, the first line is data, no column holds images or captions, or
            several hold images and none of them has a usual name.
    """
    check_names(names, where)
    known: ColumnNames = {**chosen, "image": image or chosen.get("image")}
    by_name = {option: find_column(names, known, option, where) for option in ("image", "caption")}
    free = [option for option in by_name if known.get(option) is None]
    if free and None in by_name.values() and any(map(_is_image_path, names)):
        raise InputError(
            f"{where}: seems to hold a pair, not column names: add a header line, e.g. image,caption"
        )
    values = {
        name: filled
        for name, column in (sample() if free else {}).items()
        if name.strip() and (filled := [text for text in column if text.strip()])
    }
    found = dict(by_name)
    if "image" in free:
        others = [name for name in names if name != known.get("caption")]
        found["image"] = _image_column(others, values, root, where)
    if "caption" in free:
        others = [name for name in names if name != found["image"]]
        found["caption"] = _caption_column(others, values, where)
    if found["image"] == found["caption"]:
        raise InputError(f"{where}: image and caption are both {found['image']!r}")
    if found != by_name:
        what = ", ".join(f"{option} = {_listed([found[option] or ''])}" for option in free)
        say = " ".join(f"--option {option}=NAME" for option in free)
        warnings.warn(
            f"{where}: columns: {what} (found by their values); change it with {say}",
            MmpoisonNotice,
            stacklevel=2,
        )
    more = {option: name for option, name in found.items() if name != by_name[option]}
    return {**chosen, **more}  # type: ignore[typeddict-item]


def _image_column(names: Sequence[str], values: Sample, root: Path, where: str) -> str:
    paths = _columns(names, values, _is_image_path)
    there = _columns(names, values, lambda text: _lies_there(text, root))
    found = [name for name in there if name in paths] or there or paths
    usual = usual_column(found or names, USUAL_NAMES["image"])
    if usual is None and len(found) > 1:
        raise InputError(
            f"{where}: several columns hold images, {_listed(found)}: say which with --option image=NAME"
        )
    if usual is None and not found and (web := _columns(names, values, _is_address)):
        raise InputError(
            f"{where}: no column holds file names, URLs are in {_listed(web)}: download the images first, e.g. with "
            "img2dataset, or name the image column with --option image=NAME"
        )
    return usual or (found[0] if found else need_column(names, {}, "image", where))


def _caption_column(names: Sequence[str], values: Sample, where: str) -> str:
    texts = _columns(names, values, _is_text)
    usual = usual_column(texts or names, USUAL_NAMES["caption"])

    def length(name: str) -> int:
        # each text once: a licence or a place says the same of many images, and what is said of all describes none
        different = set(values[name])
        describes = len(different) > 1 or len(values[name]) == 1
        return sum(map(_phrase_length, different)) if describes else 0

    longest = max(filter(length, texts), key=length, default=None)
    return usual or longest or need_column(names, {}, "caption", where)


def _columns(names: Sequence[str], values: Sample, test: Callable[[str], bool]) -> list[str]:
    """Return the columns of whose values most pass a test."""
    filled = [name for name in names if name in values]
    return [name for name in filled if sum(map(test, values[name])) >= MOST * len(values[name])]


def _listed(names: Sequence[str]) -> str:
    lines = map(one_line, names[:12])
    return ", ".join(line if len(line) <= 60 else f"{line[:57]}..." for line in lines)


def _is_address(text: str) -> bool:
    return _ADDRESS.match(text.strip()) is not None


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
    if not 0 < len(plain) <= LONGEST_PATH:
        return False
    try:
        return (root / check_relative(path_in_root(plain, root), "")).is_file()
    except (InputError, OSError):
        return False


def _is_text(text: str) -> bool:
    start = text[:EXAMINED]
    return any(map(str.isalpha, start)) and not _is_image_path(text) and not _is_address(text)


def _phrase_length(text: str) -> int:
    """Count the letters of a text of several words; one word of ASCII may be a key or a digest.

    >>> _phrase_length("a sheep on a hill"), _phrase_length("3f2a9c"), _phrase_length("丘の上の羊")
    (13, 0, 5)
    """
    start = text[:EXAMINED]
    several = len(start.split()) > 1 or not start.isascii()
    return sum(map(str.isalpha, start)) if several else 0


# -- what their values mean ------------------------------------------------------------------------


def split_name(value: str | None) -> str | None:
    """Translate a split's name to ours; None for an empty one; unknown names do not change.

    >>> split_name("Validation"), split_name(""), split_name("holdout")
    ('val', None, 'holdout')
    """
    if value is None or not value.strip():
        return None
    return _SPLITS.get(value.strip().lower(), value)


def row_entry(
    image: str,
    captions: list[Any],
    where: str,
    root: Path | None,
    *,
    label: str | None = None,
    split: object = None,
    file_split: str | None = None,
    own: Mapping[str, Any] | None = None,
    at: tuple[int, int],
    **more: Any,
) -> ImageEntry | str:
    """Make the entry of a row of a table, or the line that says why it has none.

    Args:
        image: Path of the image; its id where it lies in the table.
        captions: Its captions.
        where: The row, for messages.
        root: Folder that image paths start from; None where `image` is an id.
        label: Its class; empty for none.
        split: The value of the column of splits.
        file_split: The split where no column tells it.
        own: Values of the user's own columns.
        at: Numbers of the file and of the row in it.
        **more: As for `ImageEntry`.
    """
    if not image:
        return LeftOut(f"{where}: has no image", len(captions))
    try:
        image_id = image if root is None else path_in_root(image, root)
    except InputError as error:
        return LeftOut(f"{where}: {error}", len(captions))
    more["at"] = [(*at, place) for place in range(len(captions))]
    known = split_name(None if split is None else str(split)) or file_split
    values = own_values(own) if own else None
    return ImageEntry(image_id, captions, where, label or None, known, own=values, **more)


def split_of_path(relative: str) -> str | None:
    """Return the split in a file's name or folders, or None.

    >>> split_of_path("data/validation-00000-of-00001.parquet"), split_of_path("contest/part-0.tar")
    ('val', None)
    """
    for part in reversed(PurePosixPath(relative).parts):
        for token in re.split(r"[-_.]", part.lower()):
            if token in _SPLITS:
                return _SPLITS[token]
    return None


def infer_root(paths: Iterable[str], home: Path, where: str) -> Path:
    """Find the folder that image paths start from: one line names it where it is not the folder of the table.

    Args:
        paths: The paths; reading them ends at the first that is relative.
        home: Folder of the table.
        where: The file, for the line.

    Returns:
        The deepest folder with all images where each path is absolute, exists, and they lie elsewhere; else `home`.
    """
    common: str | None = None
    for path in filter(None, paths):
        if not path.startswith("/") or ".." in path.split("/") or not os.path.isfile(path):  # noqa: PTH113
            return home
        folder = path.rpartition("/")[0]
        if common is None or not f"{folder}/".startswith(f"{common}/"):
            common = os.path.commonpath([common or folder, folder])
    if not common or common == "/" or Path(common).is_relative_to(home.absolute()):
        return home
    warnings.warn(f"{where}: images: {one_line(common)}", MmpoisonNotice, stacklevel=2)
    return Path(common)


def path_in_root(value: str, root: Path) -> str:
    """Make an image path relative to the root if it is absolute and inside the root.

    Raises:
        InputError: If it is an address of the web.

    >>> path_in_root("/photos/a/1.jpg", Path("/photos"))
    'a/1.jpg'
    """
    if "://" in value:
        raise InputError(
            f"{value!r:.80} is a URL, not a file: download it first, e.g. with img2dataset"
        )
    if value.startswith("/"):
        pure = PurePosixPath(value)
        # absolute() leaves symbolic links alone; whether a file leaves the root is seen when it is opened
        for base in (root.absolute(), root.resolve()):
            if ".." not in pure.parts and pure.is_relative_to(base.as_posix()):
                return str(pure.relative_to(base.as_posix()))
    return value
