"""Columns of other people's tables: the names they usually have, and what their values mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypedDict

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.images.arrow_images import IMAGE_NAMES, usual_column
from mmpoison.pairs.table import SPLITS


class ColumnNames(TypedDict, total=False):
    """The columns of a table; one that is not given is found by the usual names (`USUAL_NAMES`).

    Attributes:
        image_column: Column of images: paths, or bytes where the format holds them.
        caption_column: Column of captions: a string, or a list of strings where the format has lists.
        label_column: Column of classes.
        split_column: Column of splits.
    """

    image_column: str | None
    caption_column: str | None
    label_column: str | None
    split_column: str | None


USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "image_column": IMAGE_NAMES,
    "caption_column": (
        "captions", "caption", "title", "text", "texts", "sentence", "sentences", "comment",
    ),
    "label_column": ("label", "class", "category"),
    "split_column": ("split",),
    "categories": ("categories",),
}  # fmt: skip
"""Usual names of each column, the likeliest first."""

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
        option: Key of `USUAL_NAMES`, such as `image_column`.
        where: The file, for the message.

    Raises:
        InputError: If the user's choice is not there.

    >>> find_column(["Filepath", " title "], {}, "caption_column", "a.csv")
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
        shown = ", ".join(repr(name) for name in names[:12]) or "none"
        raise InputError(f"{where}: no column has a usual name for {option}: name one of {shown}")
    return column


def split_name(value: str | None) -> str | None:
    """Translate a split's name to ours; None for an empty one; unknown names do not change.

    >>> split_name("Validation"), split_name(""), split_name("holdout")
    ('val', None, 'holdout')
    """
    if value is None or not value.strip():
        return None
    return _SPLITS.get(value.strip().lower(), value)


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


def path_in_root(value: str, root: Path) -> str:
    """Make an image path relative to the root if it is absolute and inside the root.

    Raises:
        InputError: If it is an address of the web.

    >>> path_in_root("/photos/a/1.jpg", Path("/photos"))
    'a/1.jpg'
    """
    if "://" in value:
        raise InputError(
            f"{value!r:.80} is an address, not a file: download it first (img2dataset does)"
        )
    if value.startswith("/"):
        pure = PurePosixPath(value)
        # absolute() leaves symbolic links alone; whether a file leaves the root is seen when it is opened
        for base in (root.absolute(), root.resolve()):
            if ".." not in pure.parts and pure.is_relative_to(base.as_posix()):
                return str(pure.relative_to(base.as_posix()))
    return value
