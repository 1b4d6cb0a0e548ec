"""The laboratory is a plug-in like any other: it imports public names alone."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import mmpoison_lab


def test_only_public_names_are_imported() -> None:
    """Names that `mmpoison`, or one of its parts (`mmpoison.attacks`), lists; never a module inside of a part."""
    checked = 0
    for file in Path(next(iter(mmpoison_lab.__path__))).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("mmpoison."):
                continue
            module = str(node.module)
            assert module.count(".") == 1, f"{file}: {module}"
            public = getattr(importlib.import_module(module), "__all__", None)
            for name in node.names:
                assert public is None or name.name in public, f"{file}: {module}.{name.name}"
                checked += 1
    assert checked > 100
