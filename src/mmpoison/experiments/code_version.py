"""The version of the code that a stage hangs on: a digest of what it does, not of how it is written down."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from mmpoison._version import __version__


@cache
def code_version(*modules: str) -> str:
    """sha256 of modules and packages of mmpoison, without comments and docstrings.

    Args:
        *modules: Below `mmpoison`, for example `training` or `seeding`; a package stands for all in it.

    >>> code_version("seeding") == code_version("seeding") != code_version("files")
    True
    """
    digest = hashlib.sha256(__version__.encode())
    for name in modules:
        root = files("mmpoison")
        package = root / name
        sources = [root / f"{name}.py"] if not package.is_dir() else _sources(package)
        for source in sources:
            if source.is_file():
                digest.update(f"{name}/{source.name}\0".encode())
                digest.update(_code(source.read_text("utf-8")).encode())
    return digest.hexdigest()[:32]


def _sources(package: Traversable) -> list[Traversable]:
    found: list[Traversable] = []
    for entry in sorted(package.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            found += _sources(entry)
        elif entry.name.endswith(".py"):
            found.append(entry)
    return found


def _code(text: str) -> str:
    """What is left of source text without comments, layout and docstrings.

    >>> _code('def f():\\n    "What it does."\\n    return 1  # why') == _code("def f(): return (1)")
    True
    """
    tree = ast.parse(text)
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
