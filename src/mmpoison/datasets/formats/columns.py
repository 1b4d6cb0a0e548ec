"""Finds the image and caption columns of foreign tables, by their values and usual names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from mmpoison.base.registry import unknown_name
from mmpoison.base.text import one_line
from mmpoison.base.untrusted import LeftOut, check_names
from mmpoison.errors import InputError, MmpoisonNotice
from mmpoison.images.containers import IMAGE_NAMES, usual_column
from mmpoison.images.sources import EXTENSIONS
from mmpoison.pairs.builder import ImageEntry, check_relative
from mmpoison.pairs.table import SPLITS, own_values


class ColumnNames(TypedDict, total=False):
    """The columns of a table. Columns not given are detected, see `complete_columns`.

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
"""Number of rows examined."""
SAMPLE_SIZE = 1 << 20
"""Limits on characters and fields of the examined rows, because a row may be long."""

Sample = Mapping[str, Sequence[str]]
"""Sample values of each text column, by name."""

MOST = 0.8
"""Share of a column's values that must agree on its content: a few may be broken."""
LONGEST_PATH = 255
"""Longest value that is looked up as a file, in characters."""
EXAMINED = 500
"""Characters of a text that are examined."""

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
    """Find the column given by an option, or the first column with a recognised name.

    Args:
        names: Columns of the table.
        chosen: The user's choice.
        option: Key of `USUAL_NAMES`, such as `image`.
        where: The file, for the message.

    Raises:
        InputError: If the user's choice does not exist.

    >>> find_column(["Filepath", " title "], {}, "caption", "a.csv")
    ' title '
    """
    wanted = chosen.get(option)
    if wanted is None:
        return usual_column(names, USUAL_NAMES[option])
    # a recipe passes a column called 1 as a number
    if str(wanted) in names:
        return str(wanted)
    raise InputError(f"{where}: {option}: {unknown_name('column', str(wanted), list(names))}")


def need_column(names: Sequence[str], chosen: ColumnNames, option: str, where: str) -> str:
    """Find a column with `find_column`. Refuse a table without it, naming the option.

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
    """Find the required columns of images and captions, and optional columns of labels and splits.

    Raises:
        InputError: If a required or given column is missing.
    """
    return (
        need_column(names, chosen, "image", where),
        need_column(names, chosen, "caption", where),
        find_column(names, chosen, "label", where),
        find_column(names, chosen, "split", where),
    )


# -- by content -----------------------------------------------------------------------------


def complete_columns(
    names: Sequence[str],
    chosen: ColumnNames,
    where: str,
    root: Path,
    sample: Callable[[], Sample],
    *,
    image: str | None = None,
) -> ColumnNames:
    """Complete a user's choice of image and caption columns by the columns' content.

    The image column is the one whose values are file paths. The caption column is a text column: the one with a usual
    name, or the one with the longest texts. If the names alone would choose differently, a `MmpoisonNotice` reports it.

    Args:
        names: Columns of the table.
        chosen: The user's choice.
        where: The file, for messages.
        root: Folder that image paths start from.
        sample: Reads sample values of the text columns; called only if a column must be detected.
        image: The image column, if known.

    Returns:
        The choice, with `image` and `caption` added if the names alone do not determine them.

    Raises:
        InputError: If two columns have the same name, the first line is data, no column contains images or captions, or
            several contain images and none has a usual name.
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
        # count each text once: a licence or place repeated for many images describes none of them
        different = set(values[name])
        describes = len(different) > 1 or len(values[name]) == 1
        return sum(map(_phrase_length, different)) if describes else 0

    longest = max(filter(length, texts), key=length, default=None)
    return usual or longest or need_column(names, {}, "caption", where)


def _columns(names: Sequence[str], values: Sample, test: Callable[[str], bool]) -> list[str]:
    """Return the columns in which most values pass a test."""
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
    """Check whether a value is the path of a file in a folder, without reading the file."""
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
    """Count the letters of a text of several words. A single ASCII word may be a key or a digest and counts 0.

    >>> _phrase_length("a sheep on a hill"), _phrase_length("3f2a9c"), _phrase_length("丘の上の羊")
    (13, 0, 5)
    """
    start = text[:EXAMINED]
    several = len(start.split()) > 1 or not start.isascii()
    return sum(map(str.isalpha, start)) if several else 0


# -- meaning of values ------------------------------------------------------------------------


def split_name(value: str | None) -> str | None:
    """Translate a split's name to ours; return None for an empty name and unknown names unchanged.

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
    """Create the entry of a table row, or a message why it has none.

    Args:
        image: Path of the image, or its id if it is in the table.
        captions: Its captions.
        where: The row, for messages.
        root: Base folder of image paths; None if `image` is an id.
        label: Its class; empty for none.
        split: The value of the split column.
        file_split: The split if no column defines it.
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
    """Find the base folder of image paths, and report it if it is not the folder of the table.

    Args:
        paths: The paths, read up to the first relative one.
        home: Folder of the table.
        where: The file, for the line.

    Returns:
        The deepest common folder if all paths are absolute, exist, and are outside `home`; otherwise `home`.
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
    """Convert an absolute image path inside the root to a relative path.

    Raises:
        InputError: If it is a web address.

    >>> path_in_root("/photos/a/1.jpg", Path("/photos"))
    'a/1.jpg'
    """
    if "://" in value:
        raise InputError(
            f"{value!r:.80} is a URL, not a file: download it first, e.g. with img2dataset"
        )
    if value.startswith("/"):
        pure = PurePosixPath(value)
        # absolute() keeps symbolic links; opening a file checks whether it leaves the root
        for base in (root.absolute(), root.resolve()):
            if ".." not in pure.parts and pure.is_relative_to(base.as_posix()):
                return str(pure.relative_to(base.as_posix()))
    return value
