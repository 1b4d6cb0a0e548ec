"""What `run` does with the list of an experiment: reads it, forecasts it, runs it, shows what it gave."""

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
"""So many runs one command may ask for."""
FAILED = 1
RESULTS = "runs.parquet"
"""In the folder of an experiment: every number of its runs."""


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
            raise InputError(f"--seeds {text!r}: give numbers, e.g. 0-4 or 0,2,5")
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
    """Parse `all`, or goals with commas; `+` joins several goals of one run.

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
    """List the runs of a recipe; its data are read only if all their goals are asked for, and not known otherwise."""
    from mmpoison.runs.run_list import grid_of_runs

    def classes(one: Recipe) -> Sequence[str]:
        from mmpoison.runs.run_cache import goal_classes_of

        with busy("loading data"):
            return goal_classes_of(one.data, one.seed)

    return grid_of_runs(recipe, changes, classes=classes, **more)


def print_forecast(experiment: RunList, out: Path, placement: Placement) -> None:
    """Print what an experiment would do, by the runs like its own that finished here."""
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
        experiment: The list.
        out: Its folder.
        place: Where it runs, as for `place_workers`.
        save_models: Keep the checkpoints in the run folders; by default as the experiment says.
        form: How results are printed.
        show: Prints the results at the end; None prints the command that does.
    """
    from mmpoison.base.workers import place_workers
    from mmpoison.reporting.results import write_results
    from mmpoison.runs.experiments import view_of
    from mmpoison.runs.run_all import experiment_text, run_all

    placement = place_workers(**place)
    # standard output is for the result alone where a program reads it
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
        + (f" ({state.found} were before)" if state.found else "")
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
    """Print the tables of runs, or of the runs below folders; on a terminal the first ones."""
    from mmpoison.reporting.seeds import seed_tables

    print_first(seed_tables(folders), form, rest=command_for_all(folders))


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
