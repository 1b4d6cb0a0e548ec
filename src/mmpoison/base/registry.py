"""The registry of plug-ins (attacks, defences, data sets, models), and checks of the arguments of the Python API.

A plug-in is one file in its package that decorates a class or function; nothing else needs editing. To look up a name,
the registry imports only the module whose source registers it; listing all names imports every module. A plug-in may
also be in another installed package, which declares its module as an entry point:

```toml
[project.entry-points."mmpoison.attacks"]
class-swap = "my_package.class_swap"
```

Importing the module registers the plug-in under the name of the entry point. An unusable plug-in is reported in one
line and skipped; all others work. Errors raised by a plug-in's own code name the plug-in (`plugin_fault`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from numbers import Integral
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from mmpoison.errors import InputError, MmpoisonWarning

T = TypeVar("T")

LABORATORY = "mmpoison-lab"
"""Name of the laboratory's package: paper tables and figures, the matrix, attacks and defences of other papers."""

_REGISTERED: dict[str, str] = {}
"""What each module outside mmpoison has registered, for messages."""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to plug-ins of one kind, found in the modules of a package and its sub-packages.

    Args:
        kind: Kind of the plug-ins, for messages ("attack").
        package: Dotted name of the package whose modules register plug-ins; empty if only other packages do.
        listed_by: The command that lists the names, if a message cannot list them all.
        group: Entry point group for plug-ins of other installed packages; empty for none.
        needs: Attributes required of plug-ins of other packages.
        in_laboratory: Whether the laboratory has more; messages about unknown names then say so.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        listed_by: str = "",
        *,
        group: str = "",
        needs: Collection[str] = (),
        in_laboratory: bool = False,
    ) -> None:
        self.kind = kind
        self.listed_by = listed_by
        self._package = package
        self._group = group
        self._needs = tuple(needs)
        self._in_laboratory = in_laboratory
        self._items: dict[str, T] = {}
        self._unusable: dict[str, str] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a plug-in to register it under a name.

        Raises:
            ValueError: If the name is taken.
        """

        def decorate(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise ValueError(f"two {self.kind}s have the name {name!r}")
            self._items[name] = item
            module = _module_of(item)
            if module and _package(module) != _package(__name__):
                _REGISTERED[module] = f"{self.kind} {name!r}"
            return item

        return decorate

    def _find(self, name: str) -> bool:
        """Import the module that registers a name, or all modules; return whether the name is known."""
        if name not in self._items and not self._discovered:
            for module in self._modules_with(name):
                importlib.import_module(module)
        if name not in self._items and not self._discovered and self._group:
            for found in entry_points(group=self._group, name=name):
                self._load(found)
        if name not in self._items:
            self._discover()
        return name in self._items

    def _modules_with(self, name: str) -> Iterator[str]:
        """Yield the modules of the package that register something and contain a name."""
        package = importlib.util.find_spec(self._package) if self._package else None
        for folder in (package and package.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                text = file.read_text("utf-8")
                if "register(" in text and f'"{name}"' in text:
                    inside = file.relative_to(folder).with_suffix("").parts
                    yield ".".join((self._package, *inside))

    def _discover(self) -> None:
        if self._discovered:
            return
        if self._package:
            package = importlib.import_module(self._package)
            for module in pkgutil.walk_packages(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
        # set before importing plug-ins of other packages, which may look up names during import
        self._discovered = True
        for found in sorted(entry_points(group=self._group)) if self._group else []:
            self._load(found)

    def _load(self, found: EntryPoint) -> None:
        """Import an entry point's module. If it is unusable, report it and undo its registrations."""
        if found.name in self._unusable:
            return
        before = dict(self._items)
        try:
            found.load()
            self._check(found.name, before, found.module)
        # a foreign module may raise anything on import
        except (Exception, SystemExit) as error:
            self._items = before
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._unusable[found.name] = (
                f"{self.kind} {found.name!r} of package {_origin(found)} cannot be used ({reason}): "
                "update the package, or uninstall it"
            )
            warnings.warn(self._unusable[found.name], MmpoisonWarning, stacklevel=2)

    def _check(self, name: str, before: Mapping[str, T], module: str = "") -> None:
        new = {key: item for key, item in self._items.items() if key not in before}
        # a module may register several plug-ins, and is imported once
        if name not in new and (name not in before or _module_of(before[name]) != module):
            raise ValueError(f"its module registers no new {self.kind} named {name!r}")
        for key, item in new.items():
            if missing := [needed for needed in self._needs if not hasattr(item, needed)]:
                raise ValueError(f"{key!r} has no attribute {missing[0]!r}")

    def __getitem__(self, name: str) -> T:
        """Return the plug-in with a name. An unknown name raises an `InputError` that suggests the nearest name."""
        if self._find(name):
            return self._items[name]
        self.refuse_unusable(name)
        message = unknown_name(self.kind, name, self._items, self.listed_by)
        raise InputError(message + (of_laboratory() if self._in_laboratory else ""))

    def refuse_unusable(self, name: str) -> None:
        """Refuse the name of an installed but unusable plug-in, before the name is interpreted in another way.

        Raises:
            InputError: If the plug-in is unusable; the message says why.
        """
        self._discover()
        if name in self._unusable and name not in self._items:
            raise InputError(self._unusable[name])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name)

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._items))

    def __len__(self) -> int:
        self._discover()
        return len(self._items)


def plugin_fault(error: BaseException) -> str | None:
    """Describe in one line an error raised in a plug-in's package, or in a library that it called.

    Args:
        error: Any exception.

    Returns:
        The plug-in, its file and line, and the error; None if the error comes from mmpoison.
    """
    packages = {_package(module) for module in _REGISTERED}
    own: list[tuple[str, str]] = []
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if _package(module) == _package(__name__):
            break
        if _package(module) in packages:
            own.append((module, f"{frame.f_code.co_filename}, line {line}"))
    if not own:
        return None
    names = [_REGISTERED[module] for module, _ in own if module in _REGISTERED]
    name = names[0] if names else f"of package {_package(own[0][0])}"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"plug-in {name} failed in {own[0][1]} ({reason}): report it to its author"


def of_laboratory() -> str:
    """Return a hint for unknown-name messages if the laboratory, which has more plug-ins, is not installed."""
    if importlib.util.find_spec(LABORATORY.replace("-", "_")):
        return ""
    return (
        f"; the paper's tables, the matrix, and other papers' attacks and defences need {LABORATORY}: "
        f"pip install {LABORATORY}"
    )


def _module_of(item: object) -> str:
    return str(getattr(getattr(item, "load", item), "__module__", ""))


def _package(module: str) -> str:
    return module.partition(".")[0]


def _origin(found: EntryPoint) -> str:
    return f"{found.dist.name} {found.dist.version}" if found.dist is not None else found.value


def unknown_name(
    kind: str, name: str, known: Mapping[str, object] | list[str], listed_by: str = ""
) -> str:
    """Describe an unknown name in one line, with the nearest known names.

    Args:
        kind: What the name is for, such as `class`.
        name: The given name.
        known: The known names; duplicates are written once.
        listed_by: A command that lists them, if one line cannot.

    >>> unknown_name("class", "shep", ["sheep", "cow"])
    "unknown class 'shep': did you mean 'sheep'? known: cow, sheep"
    >>> unknown_name("data set", "coko", ["coco", "csv"], "mmpoison data list")
    "unknown data set 'coko': did you mean 'coco'? `mmpoison data list` shows all"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3 if listed_by else 1)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    rest = f"`{listed_by}` shows all" if listed_by else f"known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}: {hint}{rest}"


# -- Checks of the arguments of the Python API.

P = ParamSpec("P")


R = TypeVar("R")


_VALUES = {"int", "float", "bool", "Sequence", "Mapping", "Any"}
"""Types of parameters that are not names, paths or objects of mmpoison."""


def check_seed(seed: object) -> None:
    """Refuse a seed that is not a whole number from 0 (Python or NumPy) in 64 bits.

    Raises:
        InputError: If the value is invalid.
    """
    whole = int(seed) if isinstance(seed, Integral) else -1
    if isinstance(seed, bool) or not 0 <= whole < 1 << 63:
        raise InputError(f"seed {seed!r:.40} is not a whole number from 0 to {(1 << 63) - 1:,}")


def check_whole(
    name: str, value: int, least: int, most: int, wanted: str = "a whole number"
) -> int:
    """Return a value if it is a whole number in a range; refuse it otherwise.

    Args:
        name: Name of the option.
        value: Its value.
        least: Smallest value.
        most: Largest value.
        wanted: Description of valid values, for the message.

    Raises:
        InputError: If the value is invalid.
    """
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} {value!r:.40} is not {wanted} from {least} to {most:,}")
    return value


def check_name(name: str, value: object) -> None:
    """Refuse an argument that cannot be a name, a path or an object of mmpoison.

    Args:
        name: Name of the parameter.
        value: Its value.

    Raises:
        InputError: If it is an empty text, None, a number, bytes or any other plain value.
    """
    plain = type(value).__module__ == "builtins" and not isinstance(value, str)
    if plain or (isinstance(value, str) and not value.strip()):
        raise InputError(
            f"{name} is {value!r:.40}: give a name, a path, or an object of the right type"
        )


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the Python API to refuse invalid seeds, names and paths before loading anything."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            # annotations as text: most types are imported only for type checkers
            kinds = set(re.findall(r"\w+", str(signature.parameters[name].annotation)))
            if value is None and "None" in kinds:
                continue
            if name == "seed":
                check_seed(value)
            elif value == "" or not kinds & _VALUES:
                check_name(name, value)
        return function(*args, **kwargs)

    return call
