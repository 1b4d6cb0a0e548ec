"""One registry for every plug-in: attacks, defences, data sets and models.

A plug-in is one file in its package that decorates one class or function; nothing else has to be edited. The
registry imports the package's modules the first time it is asked for a name.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from mmpoison.errors import InputError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to plug-ins of one kind, found by importing every module of a package.

    Args:
        kind: What the plug-ins are, for messages ("attack").
        package: Dotted name of the package whose modules register themselves.
        listed_by: The command that lists the names, where they are too many for a message.
    """

    def __init__(self, kind: str, package: str, listed_by: str = "") -> None:
        self.kind = kind
        self.listed_by = listed_by
        self._package = package
        self._items: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a plug-in to give it a name.

        Raises:
            ValueError: If another plug-in already has the name.
        """

        def decorate(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._items[name] = item
            return item

        return decorate

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{self._package}."):
            importlib.import_module(module.name)
        self._discovered = True

    def __getitem__(self, name: str) -> T:
        """Return the plug-in called `name`; an unknown name is an `InputError` with the nearest one."""
        self._discover()
        try:
            return self._items[name]
        except KeyError:
            raise InputError(unknown_name(self.kind, name, self._items, self.listed_by)) from None

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._items))

    def __len__(self) -> int:
        self._discover()
        return len(self._items)


def unknown_name(
    kind: str, name: str, known: Mapping[str, object] | list[str], listed_by: str = ""
) -> str:
    """One line for a name that does not exist, with the nearest ones that do.

    Args:
        kind: What it is the name of.
        name: As it was given.
        known: The names that exist.
        listed_by: A command that lists them, where they are too many for one line.

    >>> unknown_name("class", "shep", ["sheep", "cow"])
    "unknown class 'shep': did you mean 'sheep'? known: cow, sheep"
    >>> unknown_name("data set", "coko", ["coco", "csv"], "mmpoison data list")
    "unknown data set 'coko': did you mean 'coco'? `mmpoison data list` shows all"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3 if listed_by else 1)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    rest = f"`{listed_by}` shows all" if listed_by else f"known: {', '.join(names)}"
    return f"unknown {kind} {name!r}: {hint}{rest}"
