"""A predicate for webdataset that reads only the pairs on a list, so that no second copy of the tars is made.

dataset = webdataset.WebDataset(shards).select(mmpoison.keep_filter("scan/keep.npy"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import parse_json, read_lines
from mmpoison.embedded.keep_lists import KEEP_FILE, KEEP_FOLDER
from mmpoison.embedded.uids import map_subset
from mmpoison.errors import InputError

_UID = re.compile(r"[0-9A-Fa-f]{1,32}")


class KeepFilter:
    """Says of a sample of webdataset whether it is on a list; can be pickled, and opens the list when first asked.

    Args:
        path: The list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._uids: Any = None
        self._keys: frozenset[str] | None = None

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        """Return whether a sample is kept.

        Args:
            sample: As webdataset gives it: by uids its `json` is read (bytes, text or decoded), by keys its `__key__`.

        Returns:
            False for a sample that is not on the list, or whose JSON has no uid.

        Raises:
            InputError: If the list cannot be read, or a sample has no JSON at all.
        """
        if self._uids is None and self._keys is None:
            self._open()
        if self._keys is not None:
            return str(sample.get("__key__", "")) in self._keys
        return self._is_kept(self._uid(sample))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _open(self) -> None:
        if self.path.suffix == ".npy":
            self._uids = map_subset(self.path)
            return
        files = sorted(self.path.glob("*.txt")) if self.path.is_dir() else [self.path]
        self._keys = frozenset(
            key for file in files for line in read_lines(file) if (key := line.rstrip("\r\n"))
        )

    def _uid(self, sample: Mapping[str, Any]) -> str:
        if "json" not in sample:
            name = one_line(str(sample.get("__key__", "")))[:80]
            raise InputError(
                f"sample {name!r} has no .json with a uid, which {self.path} needs: give the tars of DataComp, or a "
                "folder of key lists"
            )
        facts = sample["json"]
        if isinstance(facts, (bytes, str)):
            try:
                facts = parse_json(facts, "json")
            except InputError:
                return ""
        return str(facts.get("uid", "")) if isinstance(facts, Mapping) else ""

    def _is_kept(self, uid: str) -> bool:
        if _UID.fullmatch(uid) is None:
            return False
        first, last = divmod(int(uid, 16), 1 << 64)
        halves = self._uids["f0"]
        start = int(np.searchsorted(halves, np.uint64(first), side="left"))
        stop = int(np.searchsorted(halves, np.uint64(first), side="right"))
        if start == stop:
            return False
        others = self._uids["f1"][start:stop]
        place = int(np.searchsorted(others, np.uint64(last), side="left"))
        return place < len(others) and int(others[place]) == last


def keep_filter(path: str | Path) -> KeepFilter:
    """Return a predicate that keeps the samples on a list: `dataset.select(mmpoison.keep_filter("scan/keep.npy"))`.

    Args:
        path: A subset file of uids (`keep.npy`, also DataComp's own), a list of keys (one a line), a folder of such
            lists (`keep`), or the folder of a scan, which has one of them.

    Returns:
        A function of a sample; it can be pickled, and each process opens the list by itself.

    Raises:
        InputError: If there is no such list, or it is none.
    """
    place = Path(path)
    if place.is_dir():
        inside = (place / KEEP_FILE, place / KEEP_FOLDER)
        place = next((each for each in inside if each.exists()), place)
        if place.is_dir() and not any(place.glob("*.txt")):
            raise InputError(f"{path}: has no {KEEP_FILE} and no lists of keys (*.txt)")
    elif not place.exists():
        raise InputError(f"{path}: no such list of pairs to keep")
    if place.suffix == ".npy":
        map_subset(place)
    elif place.is_file() and place.suffix != ".txt":
        raise InputError(
            f"{path}: is no list of pairs to keep: give a {KEEP_FILE}, a .txt or a folder"
        )
    return KeepFilter(place)
