"""`load`, and what turns a name, a path or an object that a user passes into the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.datasets.catalogue import NamedData, load_dataset, load_pairs
from mmpoison.pairs.table import PairDataset

if TYPE_CHECKING:
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.training.settings import TrainingSettings

Pairs = PairDataset | str | Path | NamedData
"""A data set, or its name or path; a `Path` is never taken for a name. `NamedData` says how it is read, too."""


def load(
    data: str | Path,
    *,
    root: str | Path | None = None,
    format: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PairDataset:
    """Load a data set by name, or a folder or file by path.

    Args:
        data: A name (`mmpoison data list` shows them) or `hf:ORG/NAME`; or the path of a pairs folder, or of any known
            format. A `Path` is never taken for a name.
        root: The folder that holds a named data set; for a path, the folder of its images.
        format: The format of a path, where it is not recognised.
        seed: Seed of data that are made or split here.
        **options: Options of the data set or format.

    Returns:
        The pairs. Entries that cannot be trusted are left out, warned of and listed in `problems`.

    Raises:
        InputError: If there is no such data set, or it cannot be read.

    Example:
        ```python
        pairs = mmpoison.load("openmoji", unlabelled=400, held_out=100, per_class=10)
        ```
    """
    if isinstance(data, Path):
        return load_pairs(data, images=root, format=format, seed=seed, **options)
    return load_dataset(data, root, seed=seed, options=options, format=format)


def as_pairs(pairs: Pairs, *, format: str | None = None) -> PairDataset:
    """Return the data set for a name, a path or a data set.

    Args:
        pairs: The data set, or its name or path.
        format: The format of a path, where it is not recognised.

    Raises:
        InputError: If there is no such data set, or it cannot be read.
    """
    if isinstance(pairs, NamedData):
        return pairs.load()
    return pairs if isinstance(pairs, PairDataset) else load(pairs, format=format)


def as_encoder(model: DualEncoder | str | Path, *, device: str = "auto") -> DualEncoder:
    """Return the encoder for a name, a path or an encoder, on a device.

    Args:
        model: An encoder, or what `load_encoder` takes.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: If there is no such model or device.
    """
    from mmpoison.base.processes import find_device
    from mmpoison.models.loading import load_encoder

    where = find_device(device)
    loaded = load_encoder(model) if isinstance(model, str | Path) else model
    return loaded.to(where)


def training_settings(
    settings: TrainingSettings | None, changes: Mapping[str, Any]
) -> TrainingSettings:
    """Return training settings given as an object, changed by keyword arguments.

    Raises:
        InputError: If a setting is unknown or out of range.
    """
    from mmpoison.runs.recipe import parse_training

    if settings is not None and not changes:
        return settings
    given = {} if settings is None else settings.model_dump(exclude_unset=True)
    return parse_training({**given, **changes}, "settings")


def as_list(value: str | Sequence[str] | None) -> list[str]:
    """Return one name or several as a list without repetitions."""
    names = [value] if isinstance(value, str) else value or ()
    return list(dict.fromkeys(names))
