"""The contract that every named data set keeps, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.datasets.pairs import PairDataset
from mmpoison.datasets.pairs_folder import load_pairs
from mmpoison.errors import InputError
from mmpoison.registry import Registry

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DataSource:
    """A named data set.

    Attributes:
        name: Registered name.
        summary: One line: what it holds.
        where_from: Where a user gets it and on what terms.
        load: `load(root, seed, **options)` gives the pairs; `root` is the user's folder, None for data made here.
        build: `build(out, seed, progress, **options)` makes or downloads it, or None where the user must bring it.
        needs_root: Whether the user must bring a folder.
        attribution: What must be shown beside its pictures, or None.
    """

    name: str
    summary: str
    where_from: str
    load: Callable[..., PairDataset]
    build: Callable[..., Path] | None = None
    needs_root: bool = True
    attribution: str | None = None
    options: tuple[str, ...] = field(default=())


DATASETS: Registry[DataSource] = Registry("data set", "mmpoison.datasets")


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> PairDataset:
    """Load a data set by registered name, or a pairs folder by path.

    Args:
        name: A registered name, or the path of a pairs folder.
        root: Folder of the user's that holds the data, where the data set needs one.
        seed: Seed of the run, for data that are made or split by it.
        options: Options of the data set.

    Raises:
        InputError: If the name is neither, the folder is missing, or an option is unknown.
    """
    options = dict(options or {})
    if name not in DATASETS and Path(name).is_dir():
        if options:
            raise InputError(
                f"{name}: a pairs folder has no options, got {', '.join(sorted(options))}"
            )
        return load_pairs(name, images=root)
    source = DATASETS[name]
    if unknown := sorted(set(options) - set(source.options)):
        raise InputError(
            f"data set {name!r} has no option {unknown[0]!r}: "
            f"it has {', '.join(source.options) or 'none'}"
        )
    if source.needs_root and root is None:
        raise InputError(
            f"data set {name!r} needs the folder that holds it (--data-root DIR): {source.where_from}"
        )
    return source.load(None if root is None else Path(root), seed, **options)
