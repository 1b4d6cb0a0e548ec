"""The verbs that run a whole recipe, once or many times: `demo`, `run`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mmpoison.api.progress import console_progress
from mmpoison.base.registry import unknown_name
from mmpoison.base.text import count_of, safe_text
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
from mmpoison.cli.options import (
    AsJson,
    Changes,
    Format,
    Seed,
    Threads,
    Workers,
    data_changes,
    parse_options,
)
from mmpoison.cli.report import show_run
from mmpoison.errors import InputError

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


SeveralChanges = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE,...")]


def demo(
    out: Path | None = None,
    seed: Seed = 0,
    changes: Changes = None,
    device: str = "auto",
) -> None:
    """Poison, train, measure and defend, with data and a model from the package.

    Example: [bold]mmpoison demo[/bold]

    Options:
        out: New run folder.
        changes: Key of the recipe to change.
    """
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.runs.recipe import load_recipe
    from mmpoison.runs.run_folder import DEMO_RECIPE

    changed = parse_changes(changes or []) | {"seed": seed}
    _run_one(load_recipe(DEMO_RECIPE, changed), out, save_models=True, device=device)


def run(
    recipe: Annotated[str | None, typer.Argument()] = None,
    out: Path | None = None,
    on: Annotated[str | None, typer.Option(metavar="DATA")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed")] = None,
    goals: str | None = None,
    attack: str | None = None,
    changes: SeveralChanges = None,
    data_root: Path | None = None,
    experiment: Annotated[list[str] | None, typer.Option("--with")] = None,
    save_models: Annotated[bool | None, typer.Option("--models/--no-models")] = None,
    dry_run: bool = False,
    device: str = "auto",
    workers: Workers = None,
    threads: Threads = 1,
    ray: str | None = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: the steps of the demo on other data, or all runs of a table of the paper.

    Without a recipe, it lists the shipped ones. If several runs were interrupted, the same command runs the rest.

    Example: [bold]mmpoison run flickr8k --data-root photos --goals horse2boat --seeds 0-2[/bold]

    A grid: [bold]mmpoison run openmoji-heads --set attack.samples=5,10,25 --seeds 0-2[/bold]

    All goals: [bold]mmpoison run openmoji-heads --goals all --set filter=null --workers 2[/bold]

    Attack I: [bold]mmpoison run openmoji --attack single-target-image[/bold]

    Attack III: [bold]mmpoison run openmoji --goals sheep2aeroplane+sofa2bird[/bold]

    A table of the paper: [bold]mmpoison run table-3 --on openmoji[/bold]; for the plan: --dry-run

    Attacks against defences: [bold]mmpoison run matrix --on openmoji --with rows=II-own --goals 2[/bold]

    Tables of the paper and the matrix come with the package mmpoison-lab.

    Options:
        out: New run folder.
        recipe: Shipped recipe, or path of a YAML file.
        on: Data set, for recipes with several, e.g. openmoji.
        seeds: Seeds, one run for each, in parallel, e.g. 3 or 0-4 or 0,2,5.
        goals: Goals, one run for each: A2B,C2D or all; A2B+C2D is one run with two. For a matrix: their number.
        attack: Attack, e.g. single-target-image.
        changes: Key of the recipe to change; comma-separated values make one run each.
        experiment: Option of an experiment, e.g. rows=II-own; repeatable.
        save_models: Save the checkpoints (default: only for a single run).
    """
    if recipe is None:  # before anything that imports torch
        show_recipes()
        return
    from mmpoison.base.workers import place_workers
    from mmpoison.runs.recipe_files import folder_name, recipe_on

    recipe = recipe_on(recipe, on)
    form: Format = "json" if as_json else "table"
    place: dict[str, Any] = {
        "workers": workers,
        "threads": threads,
        "ray": ray,
        "device": device,
    }
    listed = list_of_runs(
        recipe,
        [*(changes or []), *([f"attack.name={attack}"] if attack else [])],
        data_changes(data_root, None),
        seeds=parse_seeds(seeds),
        goals=goals,
        options=parse_options(experiment, "--with"),
        dry_run=dry_run,
    )
    if listed.one is not None and not dry_run:
        if ray is not None or workers is not None:
            raise InputError(
                f"--workers, --ray: {recipe} is a single run in one process; for several runs give, for example, "
                "--seeds 0-4"
            )
        _run_one(listed.one, out, save_models=save_models is not False, device=device, form=form)
        return
    folder = out if out is not None else Path("runs") / folder_name(recipe)
    if dry_run:
        print_forecast(listed.runs, folder, place_workers(**place))
        return
    show = listed.show
    run_experiment(
        listed.runs,
        folder,
        place,
        # a few seeds save their checkpoints, as a single run does
        save_models=save_models is not False if listed.few else save_models,
        form=form,
        show=None if show is None else lambda: show([folder], form),
    )


@dataclass(frozen=True)
class Listed:
    """The runs that a command asks for.

    Attributes:
        runs: The list of runs.
        one: The recipe, if it is a single run.
        few: Whether it is one recipe with several seeds.
        show: Prints the results of folders in a format; None for a grid, which may be large.
    """

    runs: RunList
    one: Recipe | None = None
    few: bool = False
    show: Callable[[Sequence[Path], Format], None] | None = None


def list_of_runs(
    recipe: str,
    assignments: Sequence[str],
    changed: dict[str, Any],
    *,
    seeds: list[int],
    goals: str | None,
    options: dict[str, str],
    dry_run: bool = False,
) -> Listed:
    """Make the list of runs that a command asks for.

    Args:
        recipe: Name or path of the recipe.
        assignments: `KEY=VALUE` for all runs, `KEY=VALUE,VALUE` for a grid.
        changed: More keys for all runs, with their values.
        seeds: The seeds; empty for the recipe's own.
        goals: Value of `--goals`.
        options: Values of `--with`.
        dry_run: Whether nothing will be run.

    Raises:
        InputError: If the recipe, a goal or an option is wrong.
    """
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.runs.experiments import EXPERIMENTS, Asked
    from mmpoison.runs.recipe import experiment_of, load_recipe
    from mmpoison.runs.recipe_files import read_recipe
    from mmpoison.runs.run_list import NamedRun, RunList

    given, grid = split_changes_and_grid(assignments)
    changed = parse_changes(given) | changed
    value, _ = read_recipe(recipe)
    if (section := experiment_of(value)) is not None:
        if grid:
            raise InputError(f"--set {next(iter(grid))}: give one value for a {section}")
        if own := [key for key in changed if key.split(".")[0] == "attack"]:
            raise InputError(
                f"{own[0]}: recipe {recipe} is a {section}, which sets its own attacks: omit the option"
            )
        plug_in = EXPERIMENTS[section]
        for name in options:
            if name not in plug_in.options:
                raise InputError(f"--with {unknown_name('option', name, [*plug_in.options])}")
        runs = plug_in.runs(Asked(recipe, changed, seeds, goals, options, dry_run))
        return Listed(runs, show=plug_in.report)
    if options:
        raise InputError(f"--with: recipe {recipe} is not an experiment with options")
    if goals is not None and goals.isdecimal():
        raise InputError(
            f"--goals {goals}: give goals, e.g. --goals sheep2aeroplane, or --goals all"
        )
    chosen = None if goals is None else parse_goals(goals)
    if isinstance(chosen, list) and len(chosen) == 1 and not value.get("sweep"):
        changed["attack.goal"], chosen = chosen[0], None
    several = [
        goal for goal in [*(chosen or []), changed.get("attack.goal")] if isinstance(goal, list)
    ]
    if several and "attack.name" not in changed:
        from mmpoison.api.inputs import SEVERAL_GOALS
        from mmpoison.attacks.catalogue import takes_several_goals

        if not takes_several_goals(load_recipe(recipe).attack.name):
            changed["attack.name"] = SEVERAL_GOALS
    many = bool(grid) or chosen is not None or bool(value.get("sweep"))
    if not many and len(seeds) < 2:
        if seeds:
            changed["seed"] = seeds[0]
        one = load_recipe(recipe, changed)
        return Listed(RunList(one.name, one.description, (NamedRun(f"seed{one.seed}", one),)), one)
    runs = read_grid(recipe, changed, grid=grid, seeds=seeds or None, goals=chosen)
    return Listed(runs, few=not many, show=None if many else print_means)


def show_recipes() -> None:
    """Print the shipped recipes, one per line: a table on a terminal, else the full lines."""
    from mmpoison.runs.recipe_files import MEASURED_ON, list_recipes, listed_recipes

    if not console.is_terminal:
        for line in list_recipes():
            typer.echo(line)
        return
    table = Table(box=None, pad_edge=False)
    rows = listed_recipes()
    longest = max(len(row.name) for row in rows)
    table.add_column("recipe")
    table.add_column("minutes", justify="right")
    # only this column is cut: names and numbers must be complete
    rest = max(20, console.width - longest - len("minutes") - 4)
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", max_width=rest)
    on: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        # "Table 3: " repeats the name
        title = row.title.removeprefix(f"{row.name.capitalize().replace('-', ' ')}: ")
        table.add_row(row.name, "" if row.minutes is None else str(row.minutes), safe_text(title))
        if row.data:
            on.setdefault(tuple(row.data), []).append(row.name)
    console.print(table, highlight=False)
    console.print(
        f"\nMinutes were measured on two cores with bf16, with --on {MEASURED_ON} if a recipe has several data sets.",
        highlight=False,
    )
    for data, names in on.items():
        which = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        console.print(f"{which}: --on {', '.join(data)}", highlight=False)


def _run_one(
    recipe: Recipe,
    out: Path | None,
    *,
    save_models: bool,
    device: str,
    form: Format = "table",
) -> None:
    from mmpoison.api import running as api

    folder = api.run_folder(recipe) if out is None else out
    # with --json, standard output is reserved for the result
    shown = console if form == "table" else stderr_console()
    shown.print(
        f"[bold]{safe_text(recipe.name)}[/bold], seed {recipe.seed}: {safe_text(recipe.description)}; "
        f"{safe_text(recipe.attack.name)}, {safe_text(', '.join(recipe.attack.goals))}"
    )
    with live_progress(on_stderr=form != "table") as progress:
        done = api.run(
            recipe, out=folder, save_models=save_models, device=device, progress=progress
        )
    show_run(folder, done.page, drawn=form == "table")
    if form != "table":
        print_means([folder], form)
