"""Runs benchmarks, and writes their results into docs/performance.md.

    make bench                                   # all of the page, in a quarter of an hour on an idle machine
    python benchmarks/bench.py ranks             # one of them again, the others stay
    python benchmarks/bench.py filter --set pairs=200 --set memory=500,1000 --json found.json     # in other sizes
    python benchmarks/bench.py search_page       # one whose numbers are on another page: it prints them

The cases are the functions of `cases/`. Each runs in a process of its own, with a cache of its own; large files go to
`$TMPDIR`. Results of the page are in docs/results/performance, a JSON file a case with the machine and the load before
it. The page quotes them by their keys (`page_numbers.py`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from subprocess import CalledProcessError
from typing import Annotated

import typer
from cases.table import CASES, ON_THE_PAGE, measure
from harness import alone, flat, sizes
from page_blocks import ROOT, put
from page_numbers import renewed

from mmpoison.base.files import write_json
from mmpoison.errors import InputError

RESULTS = ROOT / "docs/results/performance"
PAGE = ROOT / "docs/performance.md"


def main(
    cases: Annotated[list[str] | None, typer.Argument()] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="SIZE=VALUE")] = None,
    json: Path | None = None,
) -> None:
    """Run cases, print their results, and save those that the page quotes.

    Args:
        cases: All of the page by default.
        change: Another size, NAME=VALUE.
        json: Write the result of one case here, and only here.
    """
    for name in cases or [each.__name__ for each in ON_THE_PAGE]:
        if name not in CASES:
            sys.exit(f"no case {name!r}, but {', '.join(CASES)}")
        print(f"== {name}: {(CASES[name].__doc__ or '').splitlines()[0]}", flush=True)
        try:
            sizes(CASES[name], change or [])
            with tempfile.TemporaryDirectory() as cache:
                result = alone(measure, name, change or [], MMPOISON_CACHE=cache)["result"]
        except (InputError, CalledProcessError) as error:
            sys.exit(str(error))
        for key, value in flat(result):
            print(f"{key:44} {value:,.4g}" if isinstance(value, float) else f"{key:44} {value}")
        if json:
            write_json(json, result)
        elif CASES[name] in ON_THE_PAGE and not change:
            write_json(RESULTS / f"{name}.json", result)
            put(PAGE, renewed(PAGE))


if __name__ == "__main__":
    typer.run(main)
