"""The verbs of the content cache: `cache list`, `cache clear`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.table import Table

from mmpoison.cli.console import console, print_json, say
from mmpoison.cli.options import AsJson
from mmpoison.cli.verb import PlainTyper
from mmpoison.errors import InputError

app = PlainTyper(
    help="Show or clear the cache of stages, features, images and data.", no_args_is_help=True
)

AGES = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@app.command("list")
def list_(
    as_json: AsJson = False,
) -> None:
    """Show the number and size of the cached results of each kind.

    Example: [bold]mmpoison cache list[/bold]
    """
    from mmpoison.base.content_cache import CacheEntry, ContentCache

    cache = ContentCache()
    kinds: dict[str, list[CacheEntry]] = {}
    for entry in cache.entries():
        kinds.setdefault(entry.kind, []).append(entry)
    if as_json:
        rows = {
            kind: {"items": len(found), "bytes": sum(e.bytes for e in found)}
            for kind, found in sorted(kinds.items())
        }
        print_json({"folder": str(cache.folder), "kinds": rows})
        return
    table = Table()
    for name in ("what", "items", "MB", "last used"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for kind, found in sorted(kinds.items()):
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(e.used for e in found)))
        table.add_row(kind, f"{len(found):,}", f"{sum(e.bytes for e in found) / 1e6:,.1f}", last)
    console.print(table)
    total = sum(entry.bytes for found in kinds.values() for entry in found)
    say(f"{cache.folder}: {total / 1e9:.2f} GB")


@app.command()
def clear(
    older_than: str | None = None,
    kind: list[str] | None = None,
    down_to: str | None = None,
    everything: Annotated[bool, typer.Option("--all")] = False,
    dry_run: bool = False,
) -> None:
    """Delete cached results, except those in use.

    Example: [bold]mmpoison cache clear --older-than 30d[/bold]

    Options:
        older_than: Delete only results unused for this long, e.g. 12h or 30d.
        kind: Delete only this kind (see `cache list`).
        down_to: Delete the least recently used results down to this total size, e.g. 500MB or 20GB.
        everything: Delete all cached results.
        dry_run: Show what would be deleted without deleting it.
    """
    from mmpoison.base.content_cache import ContentCache

    if not (older_than or kind or down_to or everything):
        raise InputError(
            "say what to delete: --older-than 30d, --kind stages/finetune, --down-to 20GB, or --all"
        )
    cache = ContentCache()
    entries = cache.entries()
    known = {entry.kind for entry in entries}
    for name in kind or ():
        if name not in known:
            raise InputError(
                f"--kind {name!r}: the cache holds {', '.join(sorted(known)) or 'nothing'}"
            )
    newest = time.time()
    if older_than:
        newest -= _amount(older_than, AGES, "give an age, e.g. 30m, 12h or 7d")
    chosen = [e for e in entries if e.used <= newest and (not kind or e.kind in kind)]
    excess = float("inf")
    if down_to:
        least = _amount(down_to, SIZES, "give a size, e.g. 500MB or 20GB")
        excess = sum(entry.bytes for entry in entries) - least
    freed = gone = 0
    for entry in sorted(chosen, key=lambda entry: entry.used):
        if freed >= excess:
            break
        if dry_run or cache.delete(entry):
            freed += entry.bytes
            gone += 1
    verb = "would be deleted" if dry_run else "deleted"
    say(f"{cache.folder}: {gone:,} items, {freed / 1e6:,.1f} MB {verb}")


def _amount(text: str, units: Mapping[str, float], needed: str) -> float:
    """Parse a number and its unit.

    >>> _amount("2h", AGES, "an age"), _amount("1.5 GB", SIZES, "a size")
    (7200.0, 1500000000.0)
    """
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})", text)
    if match is None:
        raise InputError(f"{text!r}: {needed}")
    return float(match[1]) * units[match[2]]
