"""Ranks of many queries against a large gallery, beside the usual sort-and-search.

    python benchmarks/ranks.py --json ranks.json

1,000 queries, a gallery of 100,000 images, 1,000 of them targets; random unit embeddings. Three ways to the same ranks:

- `target_ranks`: the best target of each query, and how many others score at least that; nothing is sorted;
- the usual code: `np.argsort` for each query, and the place of each target looked up in it with `np.where`; the first
  counts. It takes minutes, so it is timed on some of the queries (`--usual-queries`, all of them with 0) and its time
  is scaled to all;
- a better form of it: `np.argsort` for each query, and one search for the first place that holds a target.

`equal` says that all agree: on these similarities for every query whose best target does not tie (sorting gives ties
any order), and on similarities rounded to two digits, where nearly every query ties, with a stable sort that has the
targets behind the others, which is the tie rule. `peak_rss_gib` is the peak of a process of its own that makes the
similarities and calls `target_ranks`, nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ALONE = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ranks import make
from mmpoison.metrics import target_ranks
similarity, targets = make(*map(int, sys.argv[2:5]))
ranks = target_ranks(similarity, targets)
status = Path("/proc/self/status")
if status.exists():
    # ru_maxrss would count the process that started this one
    line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"peak": peak, "sum": int(ranks.sum())}))
"""


def make(queries: int, gallery: int, targets: int) -> tuple[Any, Any]:
    """Similarities, shape `(queries, gallery)`, float32, and the target mask, `(gallery,)`: the last images."""
    rng = np.random.default_rng(0)

    def units(count: int) -> Any:
        rows = rng.standard_normal((count, 64), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    return units(queries) @ units(gallery).T, np.arange(gallery) >= gallery - targets


def usual(scores: Any, targets: Any) -> int:
    """Sort, then look up the place of every target."""
    order = np.argsort(-scores)
    return int(min(np.where(order == target)[0][0] for target in targets))


def one_search(scores: Any, mask: Any, kind: Any = None) -> int:
    """Sort, then look for the first target."""
    return int(np.argmax(mask[np.argsort(-scores, kind=kind)]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--usual-queries", type=int, default=50, help="0 means all of them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = (options.queries, options.gallery, options.targets)

    alone = json.loads(
        subprocess.run(
            [sys.executable, "-c", ALONE, str(Path(__file__).parent), *map(str, sizes)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )

    from mmpoison.metrics import target_ranks, tie_count

    similarity, mask = make(*sizes)
    begun = time.perf_counter()
    ranks = target_ranks(similarity, mask)
    ours = time.perf_counter() - begun

    begun = time.perf_counter()
    searched = np.array([one_search(scores, mask) for scores in similarity])
    search_seconds = time.perf_counter() - begun

    some = options.usual_queries or options.queries
    targets = np.flatnonzero(mask)
    begun = time.perf_counter()
    looked_up = np.array([usual(scores, targets) for scores in similarity[:some]])
    usual_seconds = (time.perf_counter() - begun) * options.queries / len(looked_up)

    clear = np.array([tie_count(scores[None], mask) == 0 for scores in similarity])
    equal = (ranks == searched)[clear].all() and (ranks[:some] == looked_up)[clear[:some]].all()
    np.round(similarity, 2, out=similarity)
    tied = target_ranks(similarity, mask)
    equal &= tied.tolist() == [one_search(scores, mask, "stable") for scores in similarity]

    result = {
        "queries": options.queries,
        "gallery": options.gallery,
        "targets": options.targets,
        "seconds": ours,
        "usual_seconds": usual_seconds,
        "usual_timed_on_queries": len(looked_up),
        "one_search_seconds": search_seconds,
        "ratio": usual_seconds / ours,
        "ratio_one_search": search_seconds / ours,
        "equal": bool(equal and int(ranks.sum()) == alone["sum"]),
        "queries_without_a_tie": int(clear.sum()),
        "queries_with_a_tie_when_rounded": tie_count(similarity, mask),
        "peak_rss_gib": alone["peak"] / 2**30,
    }
    for name, value in result.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
