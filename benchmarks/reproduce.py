"""Run every twin of the paper's tables and figures, one after another, and render all of them for the documentation.

    python benchmarks/reproduce.py                       # OpenMoji scenes
    python benchmarks/reproduce.py --data photos         # and satellite photos: photos/ holds rsicd/ and ucm/
    python benchmarks/reproduce.py --only table-3        # recipes whose name holds this; several times
    python benchmarks/reproduce.py --dry-run             # the commands alone

It goes on where it was stopped: a recipe takes what it has done from its folder, and trainings that several recipes
share from the cache. A recipe that fails is named at the end and does not stop the others.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmpoison.experiments.recipe import shipped_recipes
from mmpoison.reporting.paper import PAPER, in_order

OPENMOJI, PHOTOS = "-openmoji", "-rsicd-ucm"


def recipes(only: list[str], *, photos: bool) -> list[str]:
    """Names of the twins, those of scenes first, each in the order of the paper.

    Args:
        only: Parts of names, or empty for all.
        photos: Take those of satellite photos too.
    """
    shipped = shipped_recipes()
    names = [
        f"{name}{twin}"
        for twin in ((OPENMOJI, PHOTOS) if photos else (OPENMOJI,))
        for name in in_order(list(PAPER))
        if f"{name}{twin}" in shipped
    ]
    return [name for name in names if not only or any(part in name for part in only)]


def run_command(name: str, runs: Path, data: Path | None) -> list[str]:
    """The command that runs one recipe."""
    command = ["run", name, "--out", str(runs / name), "--no-models"]
    if name.endswith(PHOTOS) and data is not None:
        command += ["--data-root", str(data)]
        if name == f"table-6{PHOTOS}":
            command += ["--set", f"transfer.data.root={data / 'rsicd'}"]
    return command


def report_commands(names: list[str], runs: Path, out: Path) -> list[list[str]]:
    """The commands that render what was run: each table and figure from its own recipes, the claims from all."""
    done = [name for name in names if (runs / name).is_dir()]
    commands = []
    for entry in in_order(list(PAPER)):
        own = [str(runs / name) for name in done if name.rpartition(entry)[2] in (OPENMOJI, PHOTOS)]
        if own:
            commands.append(
                [
                    "report",
                    *own,
                    "--paper",
                    entry,
                    "--out",
                    str(out),
                    "--no-links",
                    "--format",
                    "markdown",
                ]
            )
    if done:
        folders = [str(runs / name) for name in done]
        commands.append(
            [
                "report",
                *folders,
                "--claims",
                "--out",
                str(out),
                "--no-links",
                "--format",
                "markdown",
            ]
        )
        commands.append(["report", *folders, "--parquet", str(runs / "results.parquet")])
    return commands


def main() -> int:
    """Parse the command line and do it; the number of recipes that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with rsicd/ and ucm/")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/paper"))
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    names = recipes(given.only, photos=given.data is not None)
    failed: list[str] = []
    for name in names:
        command = run_command(name, given.runs, given.data)
        print(f"mmpoison {shlex.join(command)}", flush=True)
        if given.dry_run:
            continue
        begun = time.monotonic()
        if subprocess.run([sys.executable, "-m", "mmpoison", *command], check=False).returncode:
            failed.append(name)
        print(f"{name}: {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    for command in report_commands(names, given.runs, given.out) if not given.dry_run else []:
        print(f"mmpoison {shlex.join(command)}", flush=True)
        shown = subprocess.run(
            [sys.executable, "-m", "mmpoison", *command], stdout=subprocess.DEVNULL, check=False
        )
        if shown.returncode:
            failed.append(shlex.join(command[-7:]))
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
