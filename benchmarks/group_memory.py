"""Time and peak memory of the scan for suspicious groups in memory, by the number of pairs.

    python benchmarks/group_memory.py --pairs 60000,600000 --json group_memory.json

Made-up features of a large set: five captions an image, each with a vector of its own, 384 numbers a caption and an
image, in 400 topics; one caption in twenty is of another topic, and 0.1% of the pairs are one planted goal. Each size
is measured in a process of its own. `peak` is what the process held at most, `features` what it was given,
`share_of_goal` how much of the goal is in the strongest group.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WIDTH, TOPICS, CAPTIONS, ODD, POISON = 384, 400, 5, 0.05, 0.001


def main() -> None:
    """Measure each size in a process of its own, print and write the result."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--pairs", default="60000,600000", help="numbers of pairs, with commas")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one)))
        return
    found = []
    for pairs in map(int, options.pairs.split(",")):
        command = [sys.executable, __file__, "--one", str(pairs)]
        found.append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
        print(found[-1], flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(pairs: int) -> dict[str, float]:
    """Scan one made-up set."""
    from mmpoison.defenses.filters.suspicious_groups import Views
    from mmpoison.defenses.filters.suspicious_groups._scan import scan

    rng = np.random.default_rng(0)
    images = pairs // CAPTIONS
    image_topic = rng.integers(TOPICS, size=images)
    image_of = np.repeat(np.arange(images), CAPTIONS)
    caption_topic = image_topic[image_of]
    odd = rng.random(len(image_of)) < ODD
    caption_topic[odd] = rng.integers(TOPICS, size=int(odd.sum()))
    goal = rng.choice(np.flatnonzero(image_topic[image_of] == 1), int(POISON * pairs), True)
    goal = np.unique(goal)
    caption_topic[goal] = 0
    text, image = (_clouds(topic, rng) for topic in (caption_topic, image_topic))
    given = text.nbytes + image.nbytes
    begun = time.perf_counter()
    views = Views.of(text, image, np.arange(len(image_of)), image_of)
    del text, image
    strongest = scan(views).clusters[0]
    seconds = time.perf_counter() - begun
    return {
        "pairs": len(image_of),
        "seconds": round(seconds, 1),
        "pairs_per_second": round(len(image_of) / seconds),
        "features_gib": round(given / 2**30, 2),
        "peak_gib": round(_peak() / 2**30, 2),
        "share_of_goal": round(float(np.isin(goal, strongest.rows).mean()), 3),
    }


def _clouds(topic: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    middles = rng.standard_normal((TOPICS, WIDTH), dtype=np.float32)
    made = rng.standard_normal((len(topic), WIDTH), dtype=np.float32)
    made *= 0.8
    for start in range(0, len(topic), 65_536):
        made[start : start + 65_536] += middles[topic[start : start + 65_536]]
    return made


def _peak() -> int:
    """Peak memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


if __name__ == "__main__":
    main()
