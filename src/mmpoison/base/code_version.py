"""Says which code a result depends on: a digest of modules, of all that they import, and of library versions.

Nothing lists the code by hand. The imports are read from the source text, from the module that computes the result on,
within mmpoison (and the package of a plug-in), with data files next to a module that it names. Of other packages the
installed version counts. Comments, layout and docstrings do not change the digest. Nothing is imported to find out, so
that asking costs no import of torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import atomic_file
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

OWN = "mmpoison"
FORMAT = "code 2"
MOST_KNOWN = 5000
_DATA_FILE = re.compile(r"[\w.-]+\.(?:json|jsonl|ya?ml|toml|csv|tsv|txt|md)")


class Import(NamedTuple):
    """One import: `from module import name as alias`, or `import module` where `name` is empty."""

    module: str
    name: str
    alias: str


class ModuleFacts(NamedTuple):
    """What one source file says: the digest of its code, its imports, and strings that may name a data file."""

    digest: str
    imports: tuple[Import, ...]
    data: tuple[str, ...]


class Reach(NamedTuple):
    """What some modules depend on.

    Attributes:
        modules: Dotted names of own modules, those asked for among them, and the digest of each; likewise
            `MODULE:FILE` for data files.
        packages: Top-level names of other packages that are imported, without the standard library.
    """

    modules: dict[str, str]
    packages: frozenset[str]


@cache
def code_version(*roots: object, alone: tuple[str, ...] = (), folder: Path | None = None) -> str:
    """Give a digest of all code that some functions, classes or modules depend on.

    Args:
        *roots: Functions, classes, or dotted names of modules.
        alone: Dotted names of modules whose own text counts and not what they import.
        folder: Where digests of source files are cached, so that only changed files are read again; `code` in the cache
            folder by default.

    Returns:
        32 hexadecimal digits.

    >>> code_version("mmpoison.base.seeding") != code_version("mmpoison.base.files")
    True
    """
    with CodeIndex(folder or cache_folder() / "code") as index:
        return index.version([_module_of(root) for root in roots], alone)


def _module_of(root: object) -> str:
    return root if isinstance(root, str) else str(getattr(root, "__module__", None) or root)


class CodeIndex:
    """Reads source files, each once, and follows their imports.

    Args:
        folder: Holds digests of source files under the digest of their bytes; None caches nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        name = f"{FORMAT.replace(' ', '-')}-python-{platform.python_version()}.json"
        self._file = None if folder is None else folder / name
        self._known: dict[str, Any] = {}
        self._used: set[str] = set()
        self._new = False
        self._facts: dict[Path, ModuleFacts] = {}
        self._own = {OWN}

    def __enter__(self) -> CodeIndex:
        if self._file is not None:
            with suppress(InputError):
                known = read_json(self._file)
                self._known = known if isinstance(known, dict) else {}
        return self

    def __exit__(self, *error: object) -> None:
        if self._new and self._file is not None:
            known = self._known
            if len(known) > MOST_KNOWN:  # of many versions of the code
                known = {key: known[key] for key in self._used}
            # without the file the next process reads the sources again
            with suppress(OSError), atomic_file(self._file) as temporary:
                temporary.write_text(json.dumps(known), "utf-8")

    def version(self, roots: Sequence[str], alone: Sequence[str] = ()) -> str:
        """Return a digest of what some modules depend on, as `code_version` gives it."""
        reach = self.reach(roots)
        parts = {
            "format": FORMAT,
            "python": platform.python_version(),
            "modules": reach.modules,
            "alone": {name: self._read(file).digest for name in alone if (file := _file(name))},
            "packages": {name: self.versions(name) for name in sorted(reach.packages)},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def reach(self, roots: Sequence[str]) -> Reach:
        """Follow the imports of some modules; the packages that the modules are in count as own code.

        A name that a package's `__init__` only passes on leads to the module that defines it, and to nothing else.
        """
        self._own = {OWN, *(root.partition(".")[0] for root in roots)}
        modules: dict[str, str] = {}
        packages: set[str] = set()
        seen: set[tuple[str, str]] = set()
        waiting = [(root, "") for root in roots]
        while waiting:
            asked = waiting.pop()
            if asked in seen:
                continue
            seen.add(asked)
            module, name = asked
            top = module.partition(".")[0]
            if top not in self._own:
                if top not in sys.stdlib_module_names:
                    packages.add(top)
                continue
            if name and _file(f"{module}.{name}") is not None:
                module, name = f"{module}.{name}", ""
            file = _file(module)
            if file is None:
                continue
            facts = self._read(file)
            if name and file.name == "__init__.py":
                passed_on = [each for each in facts.imports if each.alias == name]
                if passed_on:
                    waiting += [(each.module, each.name) for each in passed_on]
                    continue
            if module not in modules:
                modules[module] = facts.digest
                for data in (file.parent / each for each in facts.data):
                    if data.is_file():
                        content = hashlib.sha256(data.read_bytes()).hexdigest()
                        modules[f"{module}:{data.name}"] = content
                waiting += [(each.module, each.name) for each in facts.imports]
        return Reach(dict(sorted(modules.items())), frozenset(packages))

    def versions(self, package: str) -> dict[str, str]:
        """Installed distributions that a top-level package is from, with their versions; empty if there is none."""
        key = f"package {package}"
        self._used.add(key)
        found = _installed(self._known.get(key))
        if found is None and util.find_spec(package) is None:
            return {}
        if found is None:  # which distribution a package is from takes long to find out
            self._known[key] = sorted(set(_distributions().get(package, ())))
            self._new = True
            found = _installed(self._known[key]) or {}
        return found

    def _read(self, file: Path) -> ModuleFacts:
        if file not in self._facts:
            raw = file.read_bytes()
            # the package's name decides what a relative import means
            key = hashlib.sha256(f"{_package_of(file)}\0".encode() + raw).hexdigest()
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = _facts(raw, _package_of(file))
                self._new = True
            self._used.add(key)
            imports = tuple(Import(*each) for each in known[1])
            self._facts[file] = ModuleFacts(known[0], imports, tuple(known[2]))
        return self._facts[file]


def _installed(names: Any) -> dict[str, str] | None:
    """Versions of distributions; None where one is not installed, or nothing is known."""
    if not isinstance(names, list) or not names:
        return None
    try:
        return {name: metadata.version(name) for name in names}
    except metadata.PackageNotFoundError:
        return None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def _file(module: str) -> Path | None:
    """Return the source file of a module, or None; Python finds only its top-level package, without importing it."""
    top, *rest = module.split(".")
    for folder in _folders(top):
        base = folder.joinpath(*rest)
        for file in (base / "__init__.py", base.with_suffix(".py") if rest else None):
            if file is not None and file.is_file():
                return file
    return None


def _folders(top: str) -> list[Path]:
    loaded = sys.modules.get(top)
    places = getattr(loaded, "__path__", None)
    if places is None:
        with suppress(ImportError, ValueError):
            spec = util.find_spec(top)
            places = spec.submodule_search_locations if spec is not None else None
    return [Path(place) for place in places or ()]


def _package_of(file: Path) -> str:
    """Dotted name of the package that a source file is in."""
    parts: list[str] = []
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


# -- one source file -----------------------------------------------------------------------------------------------


def _facts(raw: bytes, package: str) -> list[Any]:
    """Return the `ModuleFacts` of one source file, as JSON values."""
    try:
        tree = ast.parse(raw)
    except (SyntaxError, ValueError):
        return [hashlib.sha256(raw).hexdigest(), [], []]
    imports = sorted({each for node in _nodes(tree) for each in _imports(node, package)})
    digest = hashlib.sha256(_without_docstrings(tree).encode()).hexdigest()
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    data = sorted(str(text) for text in texts if _DATA_FILE.fullmatch(str(text)))
    return [digest, [list(each) for each in imports], data]


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))


def _imports(node: ast.AST, package: str) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for each in node.names:
            yield Import(each.name, "", each.asname or each.name)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = package.split(".")
            parents = parents[: len(parents) - node.level + 1]
            base = ".".join([*parents, *([base] if base else [])])
        for each in node.names:
            name = "" if each.name == "*" else each.name
            yield Import(base, name, each.asname or name)
    elif isinstance(node, ast.Call):
        function = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if function in ("import_module", "__import__") and node.args:
            yield from _imported_by_name(node.args[0])
    elif isinstance(node, ast.Dict):
        # names that a module's __getattr__ imports when they are asked for: {"load_pairs": "mmpoison.datasets"}
        top = package.partition(".")[0]
        for key, value in zip(node.keys, node.values, strict=True):
            passed_on, home = getattr(key, "value", None), getattr(value, "value", None)
            if isinstance(passed_on, str) and str(home).startswith(f"{top}."):
                yield Import(str(home), passed_on, passed_on)


def _imported_by_name(argument: ast.expr) -> Iterator[Import]:
    """`import_module("a.b")`, or what is certain of `import_module(f"a.{name}")`."""
    if isinstance(argument, ast.JoinedStr) and argument.values:
        start = getattr(argument.values[0], "value", None)
        if isinstance(start, str) and "." in start:
            yield Import(start.rpartition(".")[0], "", "")
    elif isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        yield Import(argument.value, "", "")


def _without_docstrings(tree: ast.Module) -> str:
    """Return source text without comments, layout and docstrings.

    >>> short, long = "def f(): return (1)", 'def f():\\n    "What it does."\\n    return 1  # why'
    >>> _without_docstrings(ast.parse(short)) == _without_docstrings(ast.parse(long))
    True
    """
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [
                each
                for each in body
                if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree)
