"""Runs benchmarks, and puts what they measured into docs/performance.md.

    make bench                                   # all of the page, half an hour; nothing else should run on the machine
    python benchmarks/bench.py ranks             # one of them again, the others stay
    python benchmarks/bench.py filter --set pairs=200 --set memory=500,1000 --json found.json     # in other sizes
    python benchmarks/bench.py search_page       # one whose numbers are on another page: it prints them

The cases are the functions of `cases/`. Each runs in a process of its own, with a cache of its own; large files go to
`$TMPDIR`. Results of the page are in docs/results/performance, a JSON file a case with the machine and the load before
it. The page quotes them by their keys (`page_numbers.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from cases.table import CASES, ON_THE_PAGE, measure
from harness import alone, flat, sizes
from page_blocks import ROOT, put
from page_numbers import renewed

from mmpoison.base.files import write_json
from mmpoison.errors import InputError

RESULTS = ROOT / "docs/results/performance"
PAGE = ROOT / "docs/performance.md"


def main() -> None:
    """Run what is asked for, print it, and keep what the page quotes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="*", help=f"all of the page by default: {', '.join(CASES)}")
    parser.add_argument("--set", action="append", default=[], metavar="SIZE=VALUE", dest="changes")
    parser.add_argument(
        "--json", type=Path, help="write the result of one case here, and only here"
    )
    given = parser.parse_args()
    if unknown := sorted(set(given.case) - set(CASES)):
        parser.error(f"no case {', '.join(unknown)}, but {', '.join(CASES)}")
    for name in given.case or [each.__name__ for each in ON_THE_PAGE]:
        try:
            sizes(CASES[name], given.changes)
        except InputError as error:
            sys.exit(str(error))
        print(f"== {name}: {(CASES[name].__doc__ or '').splitlines()[0]}", flush=True)
        with tempfile.TemporaryDirectory() as cache:
            result = alone(measure, name, given.changes, MMPOISON_CACHE=cache)["result"]
        for key, value in flat(result):
            print(f"{key:44} {value:,.4g}" if isinstance(value, float) else f"{key:44} {value}")
        if given.json:
            write_json(given.json, result)
        elif CASES[name] in ON_THE_PAGE and not given.changes:
            write_json(RESULTS / f"{name}.json", result)
            put(PAGE, renewed(PAGE))


if __name__ == "__main__":
    main()
