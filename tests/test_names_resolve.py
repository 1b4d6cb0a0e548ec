"""Paths and dotted names in hand-written docs, comments and docstrings lead to something that exists."""

from __future__ import annotations

import ast
import importlib
import io
import os
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").is_file() or not (ROOT / "docs").is_dir(),
    reason="not in a built package",
)

HISTORY = ("docs/upgrade.md",)
"""Pages that may name what is gone; CHANGELOG.md is not read at all."""
OF_OTHERS = {"download_upstream.py", "resharder.py"}
"""Files of DataComp's repository."""
OF_READERS = {
    "VERB.py",
    "class_swap.py",
    "my_attack.py",
    "my_model.py",
    "my_photos.py",
    "table.md",
    "tables.md",
    "train_kept.py",
}
"""Files that an example tells the reader to write, and a placeholder."""
NO_MODULES = {"mmpoison.activation", "mmpoison.experiments", "mmpoison.md", "mmpoison.views"}
"""A key of a config, groups of entry points, a page."""

PATH = re.compile(
    r"(?<![\w/.<>{}$~-])((?:src|docs|tests|lab|benchmarks)/[\w./-]*\w|[\w./-]*\w\.(?:py|md))\b(?![\w*{<])"
)
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
DOTTED = re.compile(r"(?<![\w/.@-])(mmpoison(?:_lab)?(?:\.[A-Za-z_]\w*)+)(?![\w/-])")
IMPORT = re.compile(r"\bfrom (mmpoison[\w.]*) import (?:\(([^)]+)\)|([\w, ]+))")


def spoken(code: str) -> Iterator[str]:
    """Yield the comments and docstrings of Python code, of attributes too."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def texts() -> Iterator[tuple[Path, str]]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "lab/README.md"]
    for folder in ("docs", "lab/docs"):
        pages += (ROOT / folder).rglob("*.md")
    for page in pages:
        if str(page.relative_to(ROOT)) not in HISTORY:
            yield page, page.read_text(encoding="utf-8")
    for folder in ("src", "lab", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            yield file, "\n".join(spoken(file.read_text(encoding="utf-8")))


def every_file() -> set[str]:
    """Return the paths of all files and folders, below the root."""
    found = set()
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if not name.startswith((".", "__py")) or name == ".ci"]
        below = Path(folder).relative_to(ROOT)
        found |= {(below / name).as_posix() for name in (*inner, *files)}
    return found


def is_there(path: str, files: set[str]) -> bool:
    """Say whether a path leads to a file from the root or from any folder, as `cut/judging.py` does."""
    plain = os.path.normpath(path).lstrip("./")
    # the page of a notebook is written when the site is built
    either = {plain, plain.replace(".md", ".ipynb")} if "notebooks/" in plain else {plain}
    return any(one in files or any(file.endswith(f"/{one}") for file in files) for one in either)


def resolves(name: str) -> bool:
    """Say whether a dotted name is a module, or an attribute or annotated field of something in one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            fields = getattr(found, "__annotations__", {})
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, fields.get(part))
        return True
    return False


def paths_in(text: str, links: bool) -> set[str]:
    found = {*PATH.findall(text)} | {*(LINK.findall(text) if links else ())}
    return {path for path in found if Path(path).name not in OF_OTHERS | OF_READERS}


def names_in(text: str) -> set[str]:
    """Return the dotted names of a text, and those that its examples import."""
    imported = {
        f"{module}.{name.split()[0]}"
        for module, many, few in IMPORT.findall(text)
        for name in (many or few).split(",")
        if name.strip()
    }
    return ({*DOTTED.findall(text)} | imported) - NO_MODULES


def test_paths_exist() -> None:
    files = every_file()
    gone = [
        f"{place.relative_to(ROOT)}: {path}"
        for place, text in texts()
        for path in sorted(paths_in(text, links=place.suffix == ".md"))
        if "//" not in path and not is_there(path, files)
    ]
    assert not gone, "\n" + "\n".join(gone)


def test_dotted_names_resolve() -> None:
    named = {(name, place.relative_to(ROOT)) for place, text in texts() for name in names_in(text)}
    assert len(named) > 100
    gone = [f"{place}: {name}" for name, place in sorted(named) if not resolves(name)]
    assert not gone, "\n" + "\n".join(gone)


def test_what_is_gone_is_found() -> None:
    text = "`tests/gone.py`, [page](gone.md#part), mmpoison.gone, mmpoison.metrics.gone_at_k\n"
    text += "from mmpoison.attacks import (\n    Goal,\n    Gone,\n)\nfrom mmpoison import gone"
    assert paths_in(text, links=True) == {"tests/gone.py", "gone.md"}
    assert not any(is_there(path, every_file()) for path in paths_in(text, links=True))
    assert {name for name in names_in(text) if resolves(name)} == {
        "mmpoison.attacks",
        "mmpoison.attacks.Goal",
    }
