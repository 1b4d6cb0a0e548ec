"""A program for tests: runs commands, as if no extra were installed, and prints what became of each as JSON.

    python tests/bare_install.py '[["data", "list"], ...]' [MODULE ...]

Each MODULE is hidden: looking for it finds nothing, as where it is not installed. All commands run in one process, for
the start of torch takes longer than any of them.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from types import ModuleType
from typing import Any


class HidingFinder:
    """Python's usual finder of modules, but for some that it does not see.

    Args:
        hidden: Names of the modules, without dots.
    """

    def __init__(self, hidden: Sequence[str]) -> None:
        self.hidden = frozenset(hidden)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module; None where it is hidden."""
        if name.partition(".")[0] in self.hidden:
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context: Any) -> Iterator[Distribution]:
        """Find what is installed, for versions and entry points; nothing of what is hidden."""
        for found in importlib.machinery.PathFinder.find_distributions(*context):
            if found.name.replace("-", "_") not in self.hidden:
                yield found


def run_command(arguments: Sequence[str]) -> dict[str, object]:
    """Run one command line in this process.

    Args:
        arguments: What follows `mmpoison`.

    Returns:
        `code`, `out` and `err`; `traceback` is empty unless an exception left the command.
    """
    from mmpoison.cli import main

    sys.argv = ["mmpoison", *arguments]
    out, err, code, failed = io.StringIO(), io.StringIO(), 0, ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            code, failed = 1, traceback.format_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "traceback": failed}


def _main() -> None:
    commands, hidden = json.loads(sys.argv[1]), sys.argv[2:]
    usual = sys.meta_path.index(importlib.machinery.PathFinder)
    sys.meta_path[usual] = HidingFinder(hidden)
    print(json.dumps([run_command(command) for command in commands]))


if __name__ == "__main__":
    _main()
