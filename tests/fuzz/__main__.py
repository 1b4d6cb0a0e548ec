"""`make fuzz`: tries changed examples on every parser, so many seconds each, and keeps what is found."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.campaign import fuzz, replay
from tests.fuzz.registry import all_targets


def main() -> int:
    """Run the command line.

    Returns:
        1 if something was found, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--target", action="append", help="one of --list; several times; all by default"
    )
    parser.add_argument("--seconds", type=float, default=30, help="for each target (30)")
    parser.add_argument("--inputs", type=int, help="for each target, in the place of --seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/fuzz"), help="folder of what is found"
    )
    parser.add_argument("--json", type=Path, help="write the figures here (OUT/figures.json)")
    parser.add_argument("--replay", type=Path, nargs="+", help="try these inputs again")
    parser.add_argument("--list", action="store_true", help="names of the targets")
    given = parser.parse_args()
    known = all_targets()
    if given.list:
        print("\n".join(known))
        return 0
    if given.replay:
        return _replay(given.replay)
    names = given.target or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no target {min(unknown)!r}: --list names them")
    seconds = None if given.inputs is not None else given.seconds
    file = given.json or given.out / "figures.json"
    done = []
    for name in names:
        found = fuzz([name], given.out, seconds=seconds, inputs=given.inputs, seed=given.seed)[0]
        print(found.line(), flush=True)
        for signature, kept in found.findings.items():
            print(f"    {signature}\n        --replay {kept}", flush=True)
        done.append(asdict(found))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(done, indent=2) + "\n")
    return int(any(one["findings"] for one in done))


def _replay(files: list[Path]) -> int:
    again = False
    for file in files:
        outcome = replay(file)
        print(f"{file}: {outcome['kind']} {outcome['signature']}\n{outcome['report']}")
        again = again or outcome["kind"] == "finding"
    return int(again)


if __name__ == "__main__":
    sys.exit(main())
