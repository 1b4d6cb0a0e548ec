"""The verb `defenses`: lists the defences and their parameters."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from mmpoison.cli.console import console, print_entries, print_json
from mmpoison.cli.options import AsJson


def defenses(
    name: Annotated[str | None, typer.Argument()] = None,
    whole: Annotated[bool, typer.Option("--all")] = False,
    as_json: AsJson = False,
) -> None:
    """List the defences, with their parameters, costs and sources.

    By kind: pre-training for `scan --method` (in a recipe `filter.method`), in-training for `train --defense`
    (`robust_training.method`), post-training for `sterilize --method` (`sterilize.method`), check for
    `check --method`.

    Example: [bold]mmpoison defenses local-density[/bold]

    Options:
        name: Show all details of this defence.
        whole: Show all details of every defence.
    """
    from mmpoison.defenses.catalogue import DEFENSES

    known = [DEFENSES[name]] if name is not None else [DEFENSES[each] for each in DEFENSES]
    known.sort(key=lambda defense: ([*KINDS].index(defense.kind), defense.name))
    facts = [
        {
            "name": defense.name,
            "kind": defense.kind,
            "summary": defense.summary,
            "source": defense.source,
            "cost": defense.cost,
            "parameters": dict(defense.parameters),
            **_filter_facts(defense),
        }
        for defense in known
    ]
    if as_json:
        print_json(facts)
        return
    if name is None and not whole:
        _show_names(known)
        return
    for defense in known:
        console.print(Text.assemble((defense.name, "bold"), f"  ({defense.kind})"))
        console.print(Padding(Text(defense.summary), (0, 0, 0, 2)))
        rows = [("source", defense.source), ("cost", defense.cost)]
        defaults = inspect.signature(defense).parameters
        for name, what in defense.parameters.items():
            default = defaults[name].default
            given = default is None or default is inspect.Parameter.empty
            rows.append((f"parameter {name}", what if given else f"{what}; default {default}"))
        rows += [
            (what.replace("_", " "), _words(value))
            for what, value in _filter_facts(defense).items()
        ]
        for what, text in rows:
            line = Text.assemble((f"{what}: ", "dim"), text)
            console.print(Padding(line, (0, 0, 0, 2)), highlight=False)


def _show_names(known: Sequence[Any]) -> None:
    """Print the defences by kind, with the option that selects each kind."""
    for kind, where in KINDS.items():
        of_kind = [defense for defense in known if defense.kind == kind]
        if not of_kind:
            continue
        console.print(f"[bold]{kind}[/bold]: {escape(where)}", highlight=False)
        print_entries((f"  {defense.name}", defense.summary) for defense in of_kind)
        console.print()
    console.print(
        "`mmpoison defenses NAME` shows the parameters and cost of one defence (--all: of every defence)",
        highlight=False,
    )


def _filter_facts(defense: Any) -> dict[str, Any]:
    """Return what a filter declares: its required inputs, and which cuts it supports."""
    if defense.kind != "pre-training":
        return {}
    cuts = ["threshold", "clean_loss", "labels"]
    default = defense.default_cut
    return {
        "needs_aligned_judge": defense.needs_aligned_judge,
        "uses_trusted": defense.uses_trusted,
        "cuts": [*cuts, *(["false_alarms"] if defense.finds_groups else [])],
        "default_cut": None
        if default is None
        else {key: value for key, value in vars(default).items() if value not in (None, False)},
    }


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {one:g}" for key, one in value.items())
    return "none: give one" if value is None else ", ".join(value)


KINDS = {
    "pre-training": "mmpoison scan --method NAME",
    "in-training": "mmpoison train --defense NAME",
    "post-training": "mmpoison sterilize --method NAME",
    "check": "mmpoison check --method NAME",
}
"""The kinds of defences in order, each with the option that selects it."""
