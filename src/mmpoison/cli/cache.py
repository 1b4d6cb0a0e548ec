"""The verbs of the cache folder: `cache list`, `cache clear`."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.table import Table

from mmpoison.cli.console import console, echo, say
from mmpoison.cli.sweep import parse_age
from mmpoison.errors import InputError

app = typer.Typer(
    help="What is kept between runs: stages, features, images, data.", no_args_is_help=True
)


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what the cache folder holds, and how much.

    Example: [bold]mmpoison cache list[/bold]
    """
    from mmpoison.base.cache_folder import cache_folder
    from mmpoison.runs.cache_entries import kept_items

    totals: dict[str, list[float]] = {}
    for item in kept_items(cache_folder()):
        total = totals.setdefault(item.kind, [0, 0, 0.0])
        total[0] += 1
        total[1] += item.bytes
        total[2] = max(total[2], item.used)
    if as_json:
        rows = {k: {"items": n, "bytes": b} for k, (n, b, _) in sorted(totals.items())}
        echo(json.dumps({"folder": str(cache_folder()), "kinds": rows}, indent=2))
        return
    table = Table()
    for name in ("what", "items", "MB", "last used"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for kind, (items, size, used) in sorted(totals.items()):
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(used))
        table.add_row(kind, f"{items:,.0f}", f"{size / 1e6:,.1f}", last)
    console.print(table)
    say(f"{cache_folder()}: {sum(total[1] for total in totals.values()) / 1e9:.2f} GB")


@app.command()
def clear(
    older_than: Annotated[
        str | None, typer.Option(help="Only what was not used for so long: 12h, 30d.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind, as `cache list` calls it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
) -> None:
    """Delete what can be made again; a stage that is being made stays.

    Example: [bold]mmpoison cache clear --older-than 30d[/bold]
    """
    from mmpoison.base.cache_folder import cache_folder
    from mmpoison.runs.cache_entries import delete_item, kept_items

    if not (older_than or kind or everything):
        raise InputError("say what to delete: --older-than 30d, --kind stages/finetune, or --all")
    age = parse_age(older_than) if older_than else 0.0
    items = [item for item in kept_items(cache_folder()) if time.time() - item.used >= age]
    if kind:
        known = sorted({item.kind for item in kept_items(cache_folder())})
        for name in kind:
            if name not in known:
                raise InputError(
                    f"--kind {name!r}: the cache holds {', '.join(known) or 'nothing'}"
                )
        items = [item for item in items if item.kind in kind]
    freed = 0
    gone = 0
    for item in items:
        if dry_run or delete_item(item):
            freed += item.bytes
            gone += 1
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{cache_folder()}: {gone:,} items, {freed / 1e6:,.1f} MB {verb}")
