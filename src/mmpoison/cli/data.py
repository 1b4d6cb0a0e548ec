"""`mmpoison data`: what is known, making data sets, checking them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mmpoison.cli.console import console, monitor
from mmpoison.errors import InputError
from mmpoison.reporting import safe_text

app = typer.Typer(help="List, build and verify data sets.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Show the data sets known by name.

    Example: [bold]mmpoison data list[/bold]
    """
    from mmpoison.datasets import DATASETS

    table = Table("name", "what", "where from")
    for name in DATASETS:
        source = DATASETS[name]
        table.add_row(name, source.summary, source.where_from)
    console.print(table)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="A data set that can be made here.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data.")] = 0,
) -> None:
    """Make a data set as a pairs folder.

    Example: [bold]mmpoison data build openmoji --out scenes[/bold]
    """
    from mmpoison.datasets import DATASETS, load_pairs
    from mmpoison.files import refuse_occupied

    source = DATASETS[name]
    if source.build is None:
        raise InputError(f"data set {name!r} cannot be made here: {source.where_from}")
    refuse_occupied(out)
    with monitor() as progress:
        source.build(out, seed=seed, progress=progress.progress(f"building {name}"))
    counts = load_pairs(out).counts()
    console.print(f"{out}: {counts['images']:,} images, {counts['pairs']:,} pairs")
    if source.attribution:
        console.print(source.attribution, highlight=False)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A pairs folder.")],
    clean: Annotated[
        Path | None, typer.Option(help="The clean pairs folder that a poisoned one was made from.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a pairs folder: lines, images, and the manifest if it is poisoned. Exit code 1 when something is wrong.

    Example: [bold]mmpoison data verify poisoned --clean scenes[/bold]
    """
    from mmpoison.datasets import load_pairs
    from mmpoison.images.verify import verify_pairs

    pairs = load_pairs(folder)
    with monitor() as progress:
        found = verify_pairs(
            pairs,
            clean=load_pairs(clean) if clean else None,
            # JSON alone, so that another program can read it
            progress=None if as_json else progress.progress("reading images"),
        )
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        table = Table(show_header=False)
        table.add_column()
        # a fingerprint that is cut cannot be copied
        table.add_column(overflow="fold")
        for key, value in found.facts().items():
            table.add_row(key, safe_text(str(value)))
        console.print(table)
        for problem in found.problems:
            console.print(f"WRONG: {safe_text(problem)}", soft_wrap=True)
        if not found.problems:
            console.print("nothing wrong")
    if found.problems:
        raise typer.Exit(1)
