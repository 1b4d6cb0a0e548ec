"""Many runs of `mmpoison run`: parses seeds and grids, forecasts and runs them, shows results."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from mmpoison.api.progress import console_progress
from mmpoison.base.phrasing import count_of
from mmpoison.cli.console import (
    busy,
    command_for_all,
    console,
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

    from mmpoison.base.workers import OnChange, Placement, SweepState
    from mmpoison.runs.recipe import Recipe
    from mmpoison.runs.run_list import RunList

MOST_SEEDS = 10_000
"""Largest number of seeds in one command."""
FAILED = 1
RESULTS = "runs.parquet"
"""File in the folder of an experiment with every number of its runs."""


def parse_seeds(text: str | None) -> list[int]:
    """Parse `3`, `0-4` or `0,2,5`; None gives no seeds, which means the recipe's own.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    if text is None:
        return []
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None:
            raise InputError(f"--seeds {text!r}: give numbers, e.g. 0-4 or 0,2,5")
        more = range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(seeds) + len(more) > MOST_SEEDS:
            raise InputError(f"--seeds {text!r}: more than {MOST_SEEDS:,} seeds")
        seeds.extend(more)
    if not seeds:
        raise InputError(f"--seeds {text!r} names no seed")
    return seeds


def split_changes_and_grid(assignments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Separate `KEY=VALUE`, which changes all runs, from `KEY=VALUE,VALUE,...`, which makes a grid.

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
    """Parse `all`, or goals separated by commas; `+` joins the goals of one run.

    >>> parse_goals("boat2dog,sheep2boat+dog2cat")
    ['boat2dog', ['sheep2boat', 'dog2cat']]
    """
    if text == "all":
        return text
    goals = [part.split("+") for part in text.split(",") if part]
    if not goals:
        raise InputError(f"--goals {text!r} names no goal")
    return [goal[0] if len(goal) == 1 else goal for goal in goals]


def read_grid(recipe: str, changes: dict[str, Any], **more: Any) -> RunList:
    """List the runs of a recipe; load its data only if `all` goals need classes not yet known."""
    from mmpoison.runs.run_list import grid_of_runs

    def classes(one: Recipe) -> Sequence[str]:
        from mmpoison.runs.run_cache import goal_classes_of

        with busy("loading data"):
            return goal_classes_of(one.data, one.seed)

    return grid_of_runs(recipe, changes, classes=classes, **more)


def print_forecast(experiment: RunList, out: Path, placement: Placement) -> None:
    """Print what an experiment would run; estimate time and disk from similar finished runs."""
    from mmpoison.runs.run_all import forecast

    found = forecast(experiment, out)
    left = found.total - found.done
    say(f"{out}: {count_of(found.total, 'run')}, {found.done:,} complete, {left:,} to run")
    if not left:
        return
    workers = max(1, min(placement.count, left))
    if found.unknown < left:
        say(
            f"about {duration(found.seconds / workers)} with {placement.describe(left)} and "
            f"{found.bytes / 1e6:,.0f} MB of disk"
            + (f", without the {count_of(found.unknown, 'run')} below" if found.unknown else "")
            + ", estimated from similar runs that finished here"
        )
    if found.unknown:
        say(f"{count_of(found.unknown, 'run')}: never run here, so the time is unknown")


def run_experiment(
    experiment: RunList,
    out: Path,
    place: dict[str, Any],
    *,
    save_models: bool | None,
    form: Format,
    show: Callable[[], None] | None,
) -> None:
    """Run the list of an experiment; exit with 1 if a run failed.

    Args:
        experiment: The list of runs.
        out: Folder of the experiment.
        place: Arguments of `place_workers`.
        save_models: Save checkpoints in the run folders; by default as the experiment says.
        form: Output format of the results.
        show: Prints the results at the end; with None, only the command for it is printed.
    """
    from mmpoison.base.workers import place_workers
    from mmpoison.reporting.results import write_results
    from mmpoison.runs.experiments import view_of
    from mmpoison.runs.run_all import experiment_text, run_all

    placement = place_workers(**place)
    # with --json, standard output is reserved for the result
    tell = say if form == "table" else stderr
    shown_on = console if form == "table" else stderr_console()
    shown_on.print(
        f"[bold]{safe_text(experiment.name)}[/bold]: {safe_text(experiment.description)}; "
        f"{count_of(len(experiment.runs), 'run')}, {placement.describe()}, "
        f"{count_of(placement.threads, 'thread')} each; {safe_text(str(out))}",
        highlight=False,
    )
    with shown(shown_on) as on_change:
        state = run_all(experiment, out, save_models=save_models, on_change=on_change, **place)
    tell_failures(state, tell)
    tell(
        f"{out}: {state.found + len(state.done)} of {state.total} runs are complete"
        + (f" ({state.found} already were)" if state.found else "")
        + (f", {len(state.failed)} failed: failures.jsonl" if state.failed else "")
    )
    if state.found or state.done:
        with busy("writing the table of results"):
            write_results([out], out / RESULTS, experiment_text(out))
        if show is not None:
            show()
        view = view_of(experiment.name)
        shown_by = shlex.join(["mmpoison", "report", str(out), *(["--view", view] if view else [])])
        tell(f"results{', with the paper' if view else ''}: {shown_by}")
    if state.failed:
        raise typer.Exit(FAILED)


def print_means(folders: Sequence[Path], form: Format) -> None:
    """Print the tables of runs, or of all runs in folders; a terminal shows only the first ones."""
    from mmpoison.reporting.seeds import seed_tables

    print_first(seed_tables(folders), form, rest=command_for_all(folders))


def tell_failures(state: SweepState, tell: Callable[[str], None] = say) -> None:
    """Print one line per failed run."""
    for failure in state.failed.values():
        tell(f"{failure.run}: failed after {count_of(failure.tries, 'attempt')}: {failure.error}")


@contextmanager
def shown(place: Console = console) -> Iterator[OnChange]:
    """Show the progress of a sweep while the block runs, and one line per finished run."""
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
