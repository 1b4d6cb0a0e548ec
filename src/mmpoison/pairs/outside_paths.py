"""Says which `--data-root` would take image paths that lead out of their folder."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from mmpoison.base.phrasing import one_line


class OutsidePaths:
    """Keeps the folder that all refused image paths of a table lie in."""

    def __init__(self) -> None:
        self._common: str | None = None
        self._plain = True

    def add(self, path: str) -> None:
        """Take up a refused path."""
        if not path.startswith("/") or ".." in path.split("/") or "\x00" in path:
            self._plain = False
        if not self._plain:
            return
        folder = path.rpartition("/")[0].rstrip("/") or "/"
        if self._common is None:
            self._common = folder
        elif folder != self._common and not folder.startswith(f"{self._common}/"):
            self._common = os.path.commonpath([self._common, folder])

    @property
    def folder(self) -> str | None:
        """The deepest folder with all refused paths; None where one of them is not absolute, or only `/` has all."""
        return self._common if self._plain and self._common not in (None, "/") else None

    def refusal(self, what: str, root: Path) -> str:
        """Return the line for a table of which no other path was read.

        Args:
            what: The file or folder read.
            root: The folder that its image paths were looked for in.

        >>> outside = OutsidePaths()
        >>> outside.add("/photos/a/1.jpg")
        >>> outside.refusal("a.csv", Path("tables"))
        "a.csv: no image path is in the folder 'tables': all are in /photos/a, which is not on this machine: correct \
the paths, or write them relative to a folder and give it with --data-root"
        """
        folder = self.folder or "/"
        line = (
            f"{what}: no image path is in the folder {str(root)!r}: all are in {one_line(folder)}"
        )
        if not _is_folder(folder):
            return (
                f"{line}, which is not on this machine: correct the paths, or write them relative to a folder and "
                "give it with --data-root"
            )
        return f"{line}: give --data-root {one_line(shlex.quote(folder))}"


def advice(path: str) -> str:
    """Return what to do about one path that is refused.

    >>> advice("/photos/1.jpg")
    'give the folder of all images with --data-root'
    >>> advice("../1.jpg")
    'write paths with / and without .., relative to the folder of all images, and give it with --data-root'
    """
    if path.startswith("/") and ".." not in path.split("/"):
        return "give the folder of all images with --data-root"
    return "write paths with / and without .., relative to the folder of all images, and give it with --data-root"


def _is_folder(folder: str) -> bool:
    try:
        return Path(folder).is_dir()
    except (OSError, ValueError):
        return False
