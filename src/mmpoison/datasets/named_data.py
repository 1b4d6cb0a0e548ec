"""A data set as a user names it: a path or a name, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.datasets.catalogue import load_dataset, load_pairs
from mmpoison.pairs.table import PairDataset


@dataclass(frozen=True)
class NamedData:
    """A data set by its name or path, and how it is read; every function that takes a data set takes it.

    Attributes:
        data: A path of any known format, the name of a data set, or `hf:ORG/NAME`. A path that exists is a path, also
            where a data set has that name.
        root: The folder that holds a named data set; for a path, the folder of its images.
        format: The format of a path, where it is not recognised.
        options: Options of the data set or format, as text or as values.
    """

    data: str
    root: Path | None = None
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.data

    def load(self) -> PairDataset:
        """Load the pairs.

        Raises:
            InputError: If there is no such data set, or it cannot be read.
        """
        if Path(self.data).exists():
            return load_pairs(self.data, images=self.root, format=self.format, **self.options)
        return load_dataset(self.data, self.root, options=self.options, format=self.format)
