"""Counts lines of code by room and compares them with `budgets.toml`: if a room grows, its commit must say so.

A line of code is one that is not blank, not a comment and not part of a docstring.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = ROOT / "budgets.toml"

ROOMS = {
    "api": "api + cli",
    "cli": "api + cli",
    "defenses": "scan",
    "evaluation": "measures",
    "metrics": "measures",
    "statistics": "measures",
    "records": "reporting",
}
"""Folders of the package that share a budget; any other folder has its own."""


def lines_of_code(text: str) -> int:
    """Count the lines of code of a file.

    >>> lines_of_code('"Says what."\\n\\nx = 1  # one\\n# two\\ny = (\\n    2\\n)\\n')
    4
    """
    lines = text.splitlines()
    gone = {i for i, line in enumerate(lines, 1) if not line.strip() or line.lstrip()[0] == "#"}
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for each in body if isinstance(body, list) else []:
            # docstrings, of attributes too
            value = each.value if isinstance(each, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                gone.update(range(each.lineno, (each.end_lineno or each.lineno) + 1))
    return len(lines) - len(gone)


def counted(root: Path) -> dict[str, int]:
    """Count each room, the whole product and its files, the laboratory, the tests of both, and the benchmarks."""
    found: Counter[str] = Counter()
    package = root / "src" / "mmpoison"
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).parts[:-1]
        room = ROOMS.get(parts[0], parts[0]) if parts else "top"
        lines = lines_of_code(file.read_text(encoding="utf-8"))
        found.update({room: lines, "src": lines, "files": 1})
    for name in ("tests", "benchmarks", "lab"):
        for file in (root / name).rglob("*.py"):
            place = "tests" if "tests" in file.parts[len(root.parts) :] else name
            found[place] += lines_of_code(file.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def main() -> int:
    """Print the rooms that are over budget; with `--write`, store the present numbers.

    Returns:
        1 if a room is over its budget or has none, else 0.
    """
    found = counted(ROOT)
    if "--write" in sys.argv[1:]:
        head = [line for line in BUDGETS.read_text().splitlines() if line.startswith("#")]
        rows = [f'"{room}" = {lines}' for room, lines in found.items()]
        BUDGETS.write_text("\n".join([*head, *rows]) + "\n")
        return 0
    budgets = tomllib.loads(BUDGETS.read_text(encoding="utf-8"))
    over = {room: lines for room, lines in found.items() if lines > budgets.get(room, -1)}
    for room, lines in over.items():
        print(
            f"{room}: {lines:,} lines of code, the budget is {budgets.get(room, 0):,}: make it smaller, or raise "
            f"the number in {BUDGETS.name} in this commit and say why"
        )
    return int(bool(over))


if __name__ == "__main__":
    raise SystemExit(main())
