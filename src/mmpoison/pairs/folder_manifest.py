"""Whether a set is poisoned, for those who read it in pieces."""

from __future__ import annotations

from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.pairs.folder import MANIFEST_FILE


def is_poisoned(folder: Path) -> bool:
    """Whether a manifest lies in a folder."""
    return (folder / MANIFEST_FILE).is_file()


def refuse_poisoned(folder: Path) -> None:
    """Refuse to read a poisoned set piece by piece, since a piece could not say what in it is poisoned.

    Raises:
        InputError: If a manifest lies in the folder.
    """
    if is_poisoned(folder):
        raise InputError(
            f"{folder}: is a poisoned set ({MANIFEST_FILE}), which can only be read as a whole (load_pairs)"
        )
