"""Columns of other people's tables: the names they usually have, and what their values mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.images.arrow_images import usual_column
from mmpoison.pairs.table import SPLITS

CAPTION_NAMES = (
    "captions",
    "caption",
    "title",
    "text",
    "texts",
    "sentence",
    "sentences",
    "comment",
)
LABEL_NAMES = ("label", "class", "category")
SPLIT_NAMES = ("split",)
CATEGORIES_NAMES = ("categories",)

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


def find_column(
    names: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, where: str
) -> str | None:
    """The column that holds something: the one the user names, or the first usual name that is there.

    Args:
        names: Columns of the table.
        wanted: The user's choice, or None.
        usual: Usual names, the likeliest first; case and blanks around a name do not count.
        what: For the message ("image_column").
        where: The file, for the message.

    Raises:
        InputError: If the user's choice is not there.

    >>> find_column(["Filepath", " title "], None, CAPTION_NAMES, "caption_column", "a.csv")
    ' title '
    """
    if wanted is not None:
        if wanted in names:
            return wanted
        raise InputError(f"{where}: {what}: {unknown_name('column', wanted, list(names))}")
    return usual_column(names, usual)


def need_column(column: str | None, names: Sequence[str], what: str, where: str) -> str:
    """The column, or one line that says which option names it.

    Raises:
        InputError: If there is none.
    """
    if column is None:
        shown = ", ".join(repr(name) for name in names[:12]) or "none"
        raise InputError(f"{where}: no column has a usual name for {what}: name one of {shown}")
    return column


def split_name(value: str | None) -> str | None:
    """A split by any of its usual names; None where there is none, and an unknown name as it is.

    >>> split_name("Validation"), split_name(""), split_name("holdout")
    ('val', None, 'holdout')
    """
    if value is None or not value.strip():
        return None
    return _SPLITS.get(value.strip().lower(), value)


def split_of_path(relative: str) -> str | None:
    """The split that a file's folders or name tell, or None.

    >>> split_of_path("data/validation-00000-of-00001.parquet"), split_of_path("contest/part-0.tar")
    ('val', None)
    """
    for part in reversed(PurePosixPath(relative).parts):
        for token in re.split(r"[-_.]", part.lower()):
            if token in _SPLITS:
                return _SPLITS[token]
    return None


def path_in_root(value: str, root: Path) -> str:
    """An image path as a table has it, relative to the root where it is absolute and lies in it.

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
