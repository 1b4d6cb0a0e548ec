"""Record what the cases of `cases.py` give, one JSON file a case, which `test_golden.py` compares with.

    python -m tests.golden.make_golden            all of them
    python -m tests.golden.make_golden filters    some

Record a case again where a change means to change it, and read the difference of its file before it is committed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.golden.cases import CASES
from tests.golden.work import Work

EXPECTED = Path(__file__).parent / "expected"


def written(value: Any, lines: int = 3) -> str:
    """Write a JSON value compactly and sorted, a line for each key of the first levels, to see what differs."""
    if lines and isinstance(value, dict) and value:
        inside = [f"{json.dumps(key)}: {written(value[key], lines - 1)}" for key in sorted(value)]
        return "{\n" + ",\n".join(inside) + "\n}"
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def main() -> None:
    """Record all cases, or those that are named."""
    EXPECTED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder))
        for name in sys.argv[1:] or CASES:
            begun = time.process_time()
            text = written(CASES[name](work))
            (EXPECTED / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            print(f"{name}: {time.process_time() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
