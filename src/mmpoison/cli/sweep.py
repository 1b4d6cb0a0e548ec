"""Many runs of one recipe: grids over any key, seeds, goals; what `run` does where there are several."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from mmpoison.api.progress import console_progress
from mmpoison.base.phrasing import count_of
from mmpoison.cli.console import (
    busy,
    command_for_all,
    console,
    live_progress,
    print_first,
    say,
    stderr,
    stderr_console,
)
from mmpoison.cli.options import Format
from mmpoison.errors import InputError
from mmpoison.reporting.text import safe_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmpoison.base.workers import OnChange, SweepState
    from mmpoison.runs.recipe import Recipe
    from mmpoison.runs.sweeps.sweep import Sweep, SweepPlan

MOST_SEEDS = 10_000
"""So many runs one command may ask for."""
FAILED = 1

RETRIES = 1
"""How often a run that crashed is tried again, unless said."""


def parse_seeds(text: str | None) -> list[int]:
    """Read `3`, `0-4` or `0,2,5`; of no text there is none: the recipe's own seed.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    if text is None:
        return []
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise InputError(f"--seeds {text!r}: numbers are needed, e.g. 0-4 or 0,2,5")
        more = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(more) > MOST_SEEDS:
            raise InputError(f"--seeds {text!r}: more than {MOST_SEEDS:,} seeds")
        seeds.extend(more)
    if not seeds:
        raise InputError(f"--seeds {text!r} names no seed")
    return seeds


def split_changes_and_grid(assignments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split `KEY=VALUE` from `KEY=VALUE,VALUE,...`: what changes all runs, and what makes a grid of them.

    >>> split_changes_and_grid(["a.b=1", "c.d=1,[2,3]"])
    (['a.b=1'], {'c.d': [1, [2, 3]]})
    """
    from mmpoison.base.untrusted import parse_changes

    fixed: list[str] = []
    grid: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        values = split_values(text)
        if not equals or len(values) == 1:
            fixed.append(assignment)
        else:
            grid[key] = [parse_changes([f"{key}={value}"])[key] for value in values]
    return fixed, grid


def split_values(text: str) -> list[str]:
    """Split values at commas, but not inside brackets or quotes.

    >>> split_values("5,[1,2],'a,b'")
    ['5', '[1,2]', "'a,b'"]
    """
    values, depth, quote, current = [], 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(current)
            current = ""
            continue
        current += letter
    return [*values, current]


def parse_goals(text: str) -> str | list[Any]:
    """Parse `all`, or goals separated by commas; `+` joins several goals of one run.

    >>> parse_goals("boat2dog,sheep2boat+dog2cat")
    ['boat2dog', ['sheep2boat', 'dog2cat']]
    """
    if text == "all":
        return text
    goals = [part.split("+") for part in text.split(",") if part]
    if not goals:
        raise InputError(f"--goals {text!r} names no goal")
    return [goal[0] if len(goal) == 1 else goal for goal in goals]


def read_sweep(recipe: str, changes: dict[str, Any], **more: Any) -> Sweep:
    """Read the runs of a recipe; load its data only if all their goals are requested."""
    from mmpoison.attacks.goal import goal_classes
    from mmpoison.runs.run_cache import RunCache
    from mmpoison.runs.sweeps.sweep import load_sweep

    run_cache = RunCache()

    def classes(one: Recipe) -> Sequence[str]:
        return goal_classes(run_cache.pairs(one.data, one.seed))

    with busy("loading data"):
        return load_sweep(recipe, changes, classes=classes, **more)


def run_all(
    sweep: Sweep,
    out: Path,
    place: dict[str, Any],
    *,
    retries: int,
    save_models: bool | None,
    dry_run: bool,
    form: Format,
    tables: bool,
) -> None:
    """Run a sweep, or say what it would do; exit with 1 if a run failed.

    `place` says where it runs, as for `place_workers`.

    With `tables` the results are printed at the end, in the chosen form, otherwise the command that prints them.
    """
    from mmpoison.base.processes import find_device
    from mmpoison.base.workers import place_workers
    from mmpoison.runs.sweeps.sweep import plan_sweep, run_sweep

    placement = place_workers(**place)
    threads = placement.threads
    if dry_run:
        where = str(find_device(place["device"]))
        with live_progress() as progress:
            looking = progress.progress("looking at runs")
            plan = plan_sweep(
                sweep, out, threads=threads, device=where, save_models=save_models, on_look=looking
            )
        print_plan(plan, min(placement.count, plan.runs), out)
        return
    # standard output is for the result alone where a program reads it
    tell = say if form == "table" else stderr
    shown_on = console if form == "table" else stderr_console()
    shown_on.print(
        f"[bold]{safe_text(sweep.base.name)}[/bold]: {safe_text(sweep.base.description)}; "
        f"{count_of(len(sweep.runs), 'run')}, {placement.describe()}, {count_of(threads, 'thread')} each; "
        f"{safe_text(str(out))}",
        highlight=False,
    )
    with shown(shown_on) as on_change:
        state = run_sweep(
            sweep, out, retries=retries, save_models=save_models, on_change=on_change, **place
        )
    tell_failures(state, tell)
    tell(
        f"{out}: {state.found + len(state.done)} of {state.total} runs are complete"
        + (f" ({state.found} were before)" if state.found else "")
        + (f", {len(state.failed)} failed: failures.jsonl" if state.failed else "")
    )
    if state.found or state.done:
        if tables or form != "table":
            print_means(out, form)
        tell(f"results: mmpoison report {shlex.quote(str(out))}")
    if state.failed:
        raise typer.Exit(FAILED)


def print_means(folder: Path, form: Format) -> None:
    """Print the tables of a run, or of the runs below a folder; on a terminal the first ones."""
    from mmpoison.reporting.seeds import seed_tables

    print_first(seed_tables([folder]), form, rest=command_for_all([folder]))


def tell_failures(state: SweepState, tell: Callable[[str], None] = say) -> None:
    """Print a line for each run that failed."""
    for failure in state.failed.values():
        tell(f"{failure.run}: failed after {count_of(failure.tries, 'attempt')}: {failure.error}")


@contextmanager
def shown(place: Console = console) -> Iterator[OnChange]:
    """Show how far a sweep is while the block runs, and a line for each run that is done."""
    with console_progress(place) as progress:
        show, lines = progress.progress("runs"), 0

        def on_change(state: SweepState) -> None:
            nonlocal lines
            for number, (name, seconds) in enumerate(state.done[lines:], lines + 1):
                progress.say(f"{state.found + number}/{state.total} {name}: {seconds:.0f} s")
            lines = len(state.done)
            running = [f"{name} ({at})" for name, at in state.at]
            failed = [f"{len(state.failed)} failed"] if state.failed else []
            show(state.total - state.left, state.total, ", ".join(failed + running))

        yield on_change


def print_plan(plan: SweepPlan, workers: int, out: Path) -> None:
    """Print what a sweep would do."""
    left = plan.runs - plan.done
    say(f"{out}: {count_of(plan.runs, 'run')}, {plan.done:,} complete, {left:,} to run")
    if not plan.stages:
        return
    if plan.looked_at < left:
        say(f"stages estimated from {plan.looked_at} runs")
    table = Table()
    for name in ("stage", "cached", "to run", "time", "disk"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for name, stage in plan.stages.items():
        row = (name, f"{stage.cached:,}", f"{stage.to_run:,}")
        table.add_row(*row, _known(stage.seconds), _known_size(stage.bytes))
    console.print(table)
    times, sizes = zip(*((s.seconds, s.bytes) for s in plan.stages.values()), strict=True)
    seconds = None if None in times else sum(times) / max(1, workers)
    size = None if None in sizes else sum(sizes)
    say(
        f"time of these stages with {count_of(max(1, workers), 'worker')}: {_known(seconds)}; loading data and "
        f"measuring are not counted; disk: {_known_size(size)}"
    )


def _known_size(size: float | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"


def _known(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds)


def duration(seconds: float) -> str:
    """Format a duration as hours and minutes, or as minutes and seconds.

    >>> duration(59), duration(61), duration(7260)
    ('59 s', '1 min 01 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
