"""The contract that every attack keeps, and the registry that finds them."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from mmpoison.datasets.pairs import PairDataset
from mmpoison.registry import Registry


class Attack(Protocol):
    """An attack turns a clean table into a poisoned one that carries its manifest.

    Class attributes say what it is: `name` (registered), `source` (where it was published), `summary` (one line).
    """

    name: ClassVar[str]
    source: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, **options: Any) -> None: ...

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of the table; never touches an image file."""
        ...


ATTACKS: Registry[type[Attack]] = Registry("attack", "mmpoison.attacks")
