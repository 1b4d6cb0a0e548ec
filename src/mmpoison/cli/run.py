"""The verbs that run a whole recipe: `demo`, `run`."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mmpoison.base.registry import unknown_name
from mmpoison.cli.console import console, live_progress, stderr_console
from mmpoison.cli.options import (
    SEEDS,
    As,
    AsJson,
    Changes,
    Format,
    Retries,
    Seed,
    Threads,
    Workers,
    changed_options,
    data_changes,
    parse_options,
)
from mmpoison.cli.report import show_run
from mmpoison.cli.sweep import (
    RETRIES,
    parse_goals,
    parse_seeds,
    print_means,
    read_sweep,
    run_all,
    split_changes_and_grid,
)
from mmpoison.errors import InputError
from mmpoison.reporting.text import safe_text

SeveralChanges = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE,...")]


def demo(
    out: Path | None = None,
    seed: Seed = 0,
    changes: Changes = None,
    device: str = "auto",
) -> None:
    """Poison data, fine-tune, measure and defend, on data and a model that come with the package.

    Example: [bold]mmpoison demo[/bold]

    Options:
        out: New run folder.
        changes: Change a key of the recipe.
    """
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.runs.run_folder import DEMO_RECIPE

    changed = parse_changes(changes or []) | {"seed": seed}
    _run_one(DEMO_RECIPE, out, changed, save_models=True, device=device)


def run(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument()] = None,
    out: Path | None = None,
    on: Annotated[str | None, typer.Option(metavar="DATA")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=SEEDS)] = None,
    seeds: str | None = None,
    goals: str | None = None,
    attack: str | None = None,
    goal: list[str] | None = None,
    mode: str | None = None,
    preset: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
    study: list[str] | None = None,
    changes: SeveralChanges = None,
    save_models: Annotated[
        bool | None, typer.Option("--save-models/--no-save-models", "--models/--no-models")
    ] = None,
    device: str = "auto",
    shown: As = "table",
    as_json: AsJson = False,
    workers: Workers = None,
    threads: Threads = 1,
    retries: Retries = RETRIES,
    ray: str | None = None,
    dry_run: bool = False,
    experiment: Annotated[list[str] | None, typer.Option("--with")] = None,
    show: Annotated[bool, typer.Option("--list")] = False,
) -> None:
    """Run a recipe: what the demo does, on other data, models and goals, or all runs of a table of the paper.

    Of several runs the same command again runs what remains.

    Example: [bold]mmpoison run rsicd-ucm --data-root photos --goal airplane2beach --seeds 0-2[/bold]

    A grid: [bold]mmpoison run openmoji-heads --set attack.samples=5,10,25 --seeds 0-2[/bold]

    All goals: [bold]mmpoison run openmoji-heads --goals all --set filter=null --workers 2[/bold]

    Attack I: [bold]mmpoison run openmoji --attack single-target-image[/bold]

    Attack III: [bold]mmpoison run openmoji --goal sheep2aeroplane --goal sofa2bird[/bold]

    A table of the paper: [bold]mmpoison run table-3 --on openmoji[/bold]; what would be done: --dry-run

    Attacks against defences: [bold]mmpoison run matrix --on openmoji --with rows=II-own --goals 2[/bold]

    Tables of the paper and the matrix come with the package mmpoison-lab.

    Options:
        out: New run folder.
        changes: One value changes a key of the recipe, several with commas make a run for each.
        recipe: A shipped recipe, or the path of a YAML file.
        on: Which data set, if the recipe has several, e.g. openmoji.
        seed: Seed of one run, the same as --seeds with one number.
        seeds: Make a run for each seed, e.g. 3 or 0-4 or 0,2,5; they run in parallel.
        goals: Make a run for each goal: A2B,C2D, or all. For a matrix: how many random goals, e.g. 5.
        experiment: An option of an experiment, e.g. rows=II-own; repeat it for several.
        show: List the shipped recipes, one per line.

    Changes to the recipe:
        attack: Which attack, e.g. single-target-image.
        goal: A2B, e.g. sheep2aeroplane; repeat it for several goals.
        mode: add or replace.

    Output:
        save_models: Save the checkpoints; by default where the recipe is about one run.
    """
    if show:  # before anything that takes torch
        show_recipes()
        return
    if recipe is None:
        raise InputError(
            "which recipe? Give a name (`mmpoison run --list` shows all) or the path of a YAML file"
        )
    from mmpoison.api.inputs import SEVERAL_GOALS
    from mmpoison.attacks.catalogue import takes_several_goals
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.runs.experiments import EXPERIMENTS, Asked, experiment_of
    from mmpoison.runs.recipe import load_recipe
    from mmpoison.runs.recipe_files import folder_name, read_recipe, recipe_on

    form: Format = "json" if as_json else shown
    recipe = recipe_on(recipe, on)
    given, grid = split_changes_and_grid(changes or [])
    if attack is None and goal and len(goal) > 1:
        own = load_recipe(recipe).attack.name
        attack = own if takes_several_goals(own) else SEVERAL_GOALS
    if attack is not None:
        given.append(f"attack.name={attack}")
    if goal:
        given.append(f"attack.goal={goal[0] if len(goal) == 1 else json.dumps(goal)}")
    if mode is not None:
        given.append(f"attack.mode={mode}")
    if preset is not None:
        given.append(f"preset={preset}")
    if study:
        given.append(f"study={json.dumps(study)}")
    changed = parse_changes(given)
    changed |= data_changes(data_root, option)
    if seed is not None and seeds is not None:
        raise InputError("--seed and --seeds both set the seed: give only one of them")
    chosen_seeds = parse_seeds(seeds) if seed is None else [seed]
    place = {"workers": workers, "threads": threads, "ray": ray, "device": device}
    folder = out if out is not None else Path("runs") / folder_name(recipe)
    value, _ = read_recipe(recipe)
    options = parse_options(experiment, "--with")
    if (section := experiment_of(value)) is not None:
        one_run = ("--attack", "--goal", "--mode", "--preset", "--study")
        _refuse(context, one_run, f"recipe {recipe} is a {section}, which has its own")
        if grid:
            raise InputError(f"--set {next(iter(grid))}: give one value for a {section}")
        plug_in = EXPERIMENTS[section]
        for name in options:
            if name not in plug_in.options:
                raise InputError(f"--with {unknown_name('option', name, [*plug_in.options])}")
        plug_in.run(
            Asked(
                *(recipe, changed, folder, chosen_seeds, goals, options),
                *(place, retries, dry_run, form),
            )
        )
        return
    _refuse(context, ["--with"], f"recipe {recipe} is no experiment that has options of its own")
    if goals is not None and goals.isdecimal():
        raise InputError(
            f"--goals {goals}: give goals, e.g. --goals sheep2aeroplane, or --goals all"
        )
    many = bool(grid) or goals is not None or bool(value.get("sweep"))
    several = many or len(chosen_seeds) > 1
    if not several:
        shared_out = ("--workers", "--threads", "--retries", "--ray")
        why = f"{recipe} is a single run in one process; for several runs give, for example, --seeds 0-4"
        _refuse(context, shared_out, why)
    if dry_run or several:
        sweep = read_sweep(
            recipe,
            changed,
            grid=grid,
            seeds=chosen_seeds or None,
            goals=None if goals is None else parse_goals(goals),
        )
        run_all(
            sweep,
            folder,
            place,
            retries=retries,
            save_models=save_models if many else save_models is not False,
            dry_run=dry_run,
            form=form,
            tables=not many,
        )
        return
    _run_one(
        recipe,
        out,
        changed | ({"seed": chosen_seeds[0]} if chosen_seeds else {}),
        save_models=save_models is not False,
        device=device,
        form=form,
    )


def _refuse(context: typer.Context, names: Collection[str], why: str) -> None:
    for name in changed_options(context):
        if name in names:
            raise InputError(f"{name}: {why}")


def show_recipes() -> None:
    """List the shipped recipes, one a line: as a table on a terminal, whole for a program."""
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
    # only this one is cut: a name or a number must be whole
    rest = max(20, console.width - longest - len("minutes") - 4)
    table.add_column("what it is", no_wrap=True, overflow="ellipsis", max_width=rest)
    on: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        # "Table 3: " says what the name says
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
    name: str,
    out: Path | None,
    changes: dict[str, Any],
    *,
    save_models: bool,
    device: str,
    form: Format = "table",
) -> None:
    from mmpoison.api import running as api
    from mmpoison.runs.recipe import load_recipe

    recipe = load_recipe(name, changes)
    folder = api.run_folder(recipe) if out is None else out
    # standard output is for the result alone where a program reads it
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
        print_means(folder, form)
