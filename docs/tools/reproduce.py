"""Run every table and figure of the paper on the small data, one after another, and write the pages of the results.

    python docs/tools/reproduce.py                       # OpenMoji scenes
    python docs/tools/reproduce.py --data photos         # and everyday photographs: photos/ holds flickr8k/ and rsicd/
    python docs/tools/reproduce.py --only table-3        # recipes whose name contains this; repeatable
    python docs/tools/reproduce.py --dry-run             # only print the commands
    python docs/tools/reproduce.py --pages               # run nothing, render existing results

A second call resumes: a recipe takes its finished runs from its folder, and models that several recipes share from
the cache; `times.json` next to the runs has the time that each recipe took. A recipe that fails is named at the end
and does not stop the others. If only pages beyond the paper were run, those of the paper do not change. The
pages show means; `runs.parquet` has every number of every run, with its seed, settings and digest. It is saved next to
the pages, or if it is too large, next to the runs, for a release.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import page_blocks  # noqa: F401 - says where the benchmarks are
import pandas as pd
import typer
from harness import clocked, machine
from more_results import MORE, commands, is_complete, page
from page_blocks import WIDE
from paper_overview import overview
from PIL import Image

from mmpoison import __version__
from mmpoison.base.content_cache import ContentCache
from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.reporting.results import write_results, write_table
from mmpoison.runs.recipe_files import shipped_recipes
from mmpoison_lab.paper import PAPER
from mmpoison_lab.paper.write import RUNS_FILE

OPENMOJI, PHOTOS = "-openmoji", "-flickr8k"
DATA = {OPENMOJI: "openmoji", PHOTOS: "flickr8k"}
TIMES = "times.json"

WITH_IMAGES = ("figure-10", "rank-lists")
"""Pages that show images: the photographs belong to their owners and are not for publishing."""

LARGEST = 2_000_000
"""Bytes of `runs.parquet` that go into the repository."""

BEYOND = "\n## Beyond the paper\n\n"
"""Heads the last part of the index."""

INDEX = """# The paper's tables and figures, on two small sets

Every table and figure of the paper, run here on OpenMoji scenes and on everyday photographs (Flickr8k), with
the paper's numbers next to ours. [The paper's numbers and ours](overview.md) has the main ones on one page, and the
paper's main differences in words. Neither set is the paper's and no model is CLIP: the shape of a result can be
compared, not its digits. [How to run them](../../tasks/reproduce.md).

The pages show means over seeds. Every run behind them, with its seed and the digest of its poison, is in {runs}.

## What it took

To run everything, pages included: `make reproduce DATA=photos`. Measured on {machine}, mmpoison {version}, with one
single-threaded worker per core. *Trained here* counts the models that the command trained. It took the others from the
cache, where the command of an earlier row had stored them; *alone* adds their training time, to estimate the time on a
machine with an empty cache. Scenes and features of frozen trunks are also computed only once. *6 of 15* runs: the
command was interrupted and resumed, and its row shows only what came after that; *alone* includes every model.

"""


def recipes(only: list[str], *, photos: bool) -> list[str]:
    """Names of the recipes on small data, those on scenes first, each in the order of the paper.

    Args:
        only: Parts of names, or empty for all.
        photos: Include those on photographs.
    """
    shipped = shipped_recipes()
    names = [
        f"{name}{twin}"
        for twin in ((OPENMOJI, PHOTOS) if photos else (OPENMOJI,))
        for name in PAPER
        if f"{name}{twin}" in shipped
    ]
    return [name for name in names if not only or any(part in name for part in only)]


def parts(name: str) -> tuple[str, str]:
    """Split a name into a table or figure, and the suffix for its data."""
    return next((name.removesuffix(data), data) for data in DATA if name.endswith(data))


def run_command(name: str, runs: Path, root: Path | None) -> list[str]:
    """Return the command that runs one recipe."""
    table, data = parts(name)
    command = ["run", table, "--on", DATA[data], "--out", str(runs / name), "--no-models"]
    if data == PHOTOS and root is not None:
        command += ["--data-root", str(root)]
        if table == "table-6":
            command += ["--set", f"transfer.data.root={root / 'rsicd'}"]
    return command


def report_commands(names: list[str], runs: Path, out: Path) -> list[list[str]]:
    """Return the commands that render what was run: each table and figure from its own recipes."""
    done = [name for name in names if any((runs / name).rglob("metrics.json"))]
    shown = ["--out", str(out), "--no-links"]
    commands = []
    for entry in PAPER:
        twins = [OPENMOJI] if entry in WITH_IMAGES else [OPENMOJI, PHOTOS]
        source = "table-3" if entry == "rank-lists" else entry  # has no recipe of its own
        own = [str(runs / f"{source}{twin}") for twin in twins if f"{source}{twin}" in done]
        if own:
            commands.append(["report", *own, "--view", entry, *shown])
    return commands


def write_runs(names: list[str], runs: Path, earlier: Path | None = None) -> None:
    """Write every number of every run to one Parquet file; runs are named relative to the folder that holds them.

    Args:
        names: Folders in `runs`.
        runs: Folder for the file.
        earlier: An earlier such file; its runs from other folders are copied.
    """
    folders = [runs / name for name in names if any((runs / name).rglob("metrics.json"))]
    if not folders:
        return
    table = write_results(folders, runs / RUNS_FILE)
    if earlier is not None and earlier.is_file():
        kept, now = pd.read_parquet(earlier), [folder.name for folder in folders]
        others = kept[~kept["run"].str.partition("/")[0].isin(now)]
        write_table(pd.concat([others, table]), runs / RUNS_FILE)


def read_times(runs: Path) -> dict[str, Any]:
    """Return the time of each command; empty if none was run."""
    return dict(read_json(runs / TIMES)) if (runs / TIMES).is_file() else {}


def more_pages(runs: Path, made: Path, out: Path) -> list[str]:
    """Write the pages beyond the paper whose commands have all run; return their lines for the index.

    Pages in `out` from earlier runs stay, so they get a line too.

    Args:
        runs: Folder of the results.
        made: Folder for the pages.
        out: Holds the pages of earlier runs.
    """
    times = read_times(runs)
    lines = []
    for more in MORE:
        line = f"- [{more.title}]({more.name}"
        if is_complete(more, runs):
            took = times.get(more.name, {})
            (made / f"{more.name}.md").write_text(page(more, runs, took), encoding="utf-8")
            minutes = f", {took['minutes']:.1f} minutes" if took else ""
            lines.append(f"{line}.md){minutes}")
        elif (out / f"{more.name}.md").is_file():
            lines.append(f"{line}.md), from an earlier run")
    return lines


def cached_trainings() -> dict[str, dict[str, Any]]:
    """Return the facts in the content cache about each training, by key."""
    entries = ContentCache().entries("stages/finetune")
    return {entry.path.name: dict(entry.about) for entry in entries if entry.about}


def needed(folder: Path, cached: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Count the models that the runs of a folder need, wherever they were trained, and their training seconds.

    Args:
        folder: Holds the runs.
        cached: As `cached_trainings` gives them.
    """
    keys = {
        stage["key"] for file in folder.rglob("stages.json") for stage in read_json(file).values()
    }
    return trainings(entry for key, entry in cached.items() if key in keys)


def trainings(entries: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Count models and their training seconds."""
    # a training of zero epochs, for a model measured as it is, does not count
    seconds = [e["seconds"] for e in entries if e["seconds"] > 0.1]
    return {"trainings": len(seconds), "training_s": sum(seconds)}


def results(folder: Path) -> int:
    """Count the results in a folder."""
    return len([*folder.rglob("metrics.json"), *folder.glob("*.json")])


def run_one(name: str, command: list[str], runs: Path) -> bool:
    """Run a command of a recipe or page, and record its time if it made results; return whether it succeeded."""
    before = results(runs / name)
    (runs / name).mkdir(parents=True, exist_ok=True)
    begun = time.time()
    # the last bits of a result depend on the threads of a worker: use the same number on every machine
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    run = lambda: subprocess.run([sys.executable, *command], check=False, env=environment)  # noqa: E731
    clock, ended = clocked(run)
    minutes, processor = (clock / 60).tolist()
    print(f"{name}: {minutes:.1f} minutes", flush=True)
    done = results(runs / name)
    if done > before:
        times = read_times(runs)
        earlier = times.get(name, {}) if before else {}
        trained = [entry for entry in cached_trainings().values() if entry["created"] >= begun]
        new = {"runs": done - before, **trainings(trained)}
        new |= {"minutes": minutes, "processor_minutes": processor}
        times[name] = {key: earlier.get(key, 0) + value for key, value in new.items()}
        write_json(runs / TIMES, times)
    return ended.returncode == 0


def alone(took: dict[str, float], every: dict[str, float]) -> float:
    """Estimate the minutes of a command with an empty cache from those that it took with a filled one."""
    missing = max(0.0, every["training_s"] - took["training_s"])
    return took["minutes"] + missing / (os.cpu_count() or 1) / 60


def index_page(names: list[str], runs: Path, out: Path) -> str:
    """Write the index of the pages, with the commands and their times."""
    times, cached = read_times(runs), cached_trainings()
    where = f"[`{RUNS_FILE}`]({RUNS_FILE})" if is_small(runs) else f"`{RUNS_FILE}` of the release"
    facts = machine()
    bf16 = "without" if facts["bf16"] == "none" else "with"
    named = f"{facts['cores']} cores ({facts['processor']}, {bf16} bf16), torch {facts['torch']}"
    lines = INDEX.format(machine=named, version=__version__, runs=where).splitlines()
    lines += [
        "| `mmpoison run` | page | runs | trained here | minutes | CPU minutes | all its models | alone, minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    total, cut_off = 0.0, False
    for name in names:
        if name not in times:
            continue
        took = times[name]
        total += took["minutes"]
        entry, data = parts(name)
        every = needed(runs / name, cached)
        page = f"[{PAPER[entry].title}]({entry}.md)" if (out / f"{entry}.md").is_file() else "–"
        # an interrupted command left results, but no record of their time
        there = results(runs / name)
        ran = f"{took['runs']} of {there}" if took["runs"] < there else f"{took['runs']}"
        cut_off |= took["runs"] < there
        lines.append(
            f"| `{entry} --on {DATA[data]}` | {page} | {ran} | {took['trainings']} "
            f"| {took['minutes']:.1f} | {took['processor_minutes']:.1f} "
            f"| {every['trainings']} | {alone(took, every):.0f} |"
        )
    before = ", not counting the time before interruptions" if cut_off else ""
    lines += ["", f"In total {total / 60:.1f} hours{before}."]
    return "\n".join(lines) + "\n"


def is_small(runs: Path) -> bool:
    """Check whether the numbers of all runs are small enough to be saved next to the pages."""
    file = runs / RUNS_FILE
    return file.is_file() and file.stat().st_size <= LARGEST


def publish(made: Path, runs: Path, out: Path, *, paper: bool = True) -> None:
    """Replace the pages, figures and numbers of the runs in the documentation.

    Each page beyond the paper takes hours, so one that was not made this time stays.

    Args:
        made: Holds the pages.
        runs: Holds the runs.
        out: The folder of the documentation.
        paper: Whether recipes of the paper were run; otherwise the pages of the paper stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    beyond = {more.name for more in MORE}
    for old in (*out.glob("*.md"), *out.glob("*.svg"), *out.glob(RUNS_FILE)) if paper else ():
        if old.stem not in beyond:
            old.unlink()
    for file in made.glob("*.svg"):
        (out / file.name).write_text(shorter(file.read_text(encoding="utf-8")), encoding="utf-8")
    for file in made.glob("*.md"):
        text = WIDE + file.read_text(encoding="utf-8")
        (out / file.name).write_text(text, encoding="utf-8")
    if is_small(runs):
        shutil.copyfile(runs / RUNS_FILE, out / RUNS_FILE)
    elif (runs / RUNS_FILE).is_file():
        print(f"{runs / RUNS_FILE}: publish it with the release")


def shorter(svg: str) -> str:
    """Write a figure in half the bytes: hundredths of a point are enough, and pictures in it are JPEG."""
    pieces = re.split(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", svg)
    pieces[::2] = [_rounded(text) for text in pieces[::2]]
    pieces[1::2] = [_jpeg(picture) for picture in pieces[1::2]]
    return "".join(pieces)


def _rounded(text: str) -> str:
    """Round numbers from 1 to two digits; smaller ones are scales and widths."""

    def number(found: re.Match[str]) -> str:
        rounded = f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
        return found[0] if abs(float(found[0])) < 1 else rounded

    return re.sub(r"\n\s+", "\n", re.sub(r"-?\d+\.\d{3,}(?![\de])", number, text))


def _jpeg(picture: str) -> str:
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
        opened.convert("RGB").save(small, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"


def write_pages(runs: Path, out: Path) -> list[str]:
    """Write all pages from the results; return what failed.

    If no recipe of the paper was run, its pages and the numbers of its runs stay.
    """
    made, index, failed = runs / "pages", out / "index.md", []
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    # the pages of one part of the recipes would lack the numbers of the others
    names = recipes([], photos=True)
    paper = any(results(runs / name) for name in names) or not index.is_file()
    for command in report_commands(names, runs, made):
        print(f"mmpoison {shlex.join(command)}", flush=True)
        shown = subprocess.run(
            [sys.executable, "-m", "mmpoison", *command], stdout=subprocess.DEVNULL, check=False
        )
        if shown.returncode:
            failed.append(shlex.join(command[-7:]))
    # a page that stays keeps its numbers
    whole = [more.name for more in MORE if more.has_runs and is_complete(more, runs)]
    write_runs([*names, *whole], runs, out / RUNS_FILE)
    if paper and (runs / RUNS_FILE).is_file():
        text = overview(runs / RUNS_FILE, made)
        (made / "overview.md").write_text(text, encoding="utf-8")
    beyond = more_pages(runs, made, out)
    if not any(made.iterdir()):
        return failed
    earlier = None if paper else index.read_text(encoding="utf-8").partition(BEYOND)[0]
    publish(made, runs, out, paper=paper)
    text = WIDE + index_page(names, runs, made) if earlier is None else earlier
    if beyond:
        text += BEYOND + "\n".join(beyond) + "\n"
    index.write_text(text, encoding="utf-8")
    return failed


def main(
    data: Path | None = None,
    runs: Path = Path("runs/paper"),
    out: Path = Path("lab/docs/results/paper"),
    only: list[str] | None = None,
    dry_run: bool = False,
    pages: bool = False,
) -> None:
    """Run and render the chosen recipes and pages; exit code 1 if something failed.

    Args:
        data: Folder with flickr8k/, and rsicd/ for table 6.
        runs: Folder for the runs.
        out: Folder for the pages.
        only: Only recipes and pages whose name contains one of these.
        dry_run: Only print the commands.
        pages: Run nothing, render existing results.
    """
    todo = [
        (name, ["-m", "mmpoison", *run_command(name, runs, data)])
        for name in recipes(only or [], photos=data is not None)
    ]
    todo += [
        (more.name, command)
        for more in MORE
        if (data is not None or not more.photos)
        and (not only or any(part in more.name for part in only))
        for command in commands(more, runs, data)
    ]
    failed: list[str] = []
    for name, command in [] if pages else todo:
        print(f"python {shlex.join(command)}", flush=True)
        if not dry_run and not run_one(name, command, runs):
            failed.append(name)
    if not dry_run:
        failed += write_pages(runs, out)
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
