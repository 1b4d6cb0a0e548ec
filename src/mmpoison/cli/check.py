"""The verb `check`: checks a model for poisoning, without knowing the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.api.defenses import check as check_model
from mmpoison.cli.console import print_json, print_tables, say
from mmpoison.cli.options import As, AsJson, Format
from mmpoison.cli.verb import verb
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.runs.check_model import CheckedModel

SHOWN = 10
"""Number of findings printed; `model-check.json` has all."""


@verb(check_model)
def check(
    call: Callable[[], CheckedModel],
    context: typer.Context,
    data: NamedData,
    model: Annotated[str, typer.Argument()],
    out: Path | None = None,
    trace: Path | None = None,
    kept: Path | None = None,
    shown: As = "table",
    as_json: AsJson = False,
) -> None:
    """Check whether a model is poisoned, without knowing the goal.

    Example: [bold]mmpoison check model --data scenes --reference start --clean-runs 5 --out check[/bold]

    With the suspect's training pairs: [bold]mmpoison check suspect --data pairs
    --reference trained-on-kept --trace traced[/bold]

    Options:
        model: Name, folder or file of the suspect (see `mmpoison models list`).
        clean: Clean fine-tune of the reference; give at least two.
        clean_runs: Number of clean fine-tunes to train on split val; needs --out.

    Output:
        out: Folder for model-check.json and the clean fine-tunes.

    Training pairs:
        trace: New folder for a list of the training pairs that the model has learned and the reference has not.
        kept: New folder for the pairs that the trace keeps, as a data set.
    """
    if context.params["clean_runs"] and out is None:
        raise InputError(
            "--clean-runs needs --out DIR: the clean fine-tunes are saved there for later checks"
        )
    found = call()
    steps = found.next_steps(model, data.words(), context.params["reference"])
    _print(found, steps, context.params["method"], out, "json" if as_json else shown)
    if found.traced is not None and not as_json:
        for line in found.traced.lines(kept):
            say(line)


def _print(
    found: CheckedModel, steps: Sequence[str], method: str, out: Path | None, form: Format
) -> None:
    """Print the most unusual findings."""
    from mmpoison.reporting.table import Column, Table
    from mmpoison.runs.check_model import CHECK_FILE

    if form == "json":
        print_json(found.to_json())
        return
    rows = [one.to_json() for one in found.result.findings[:SHOWN]]
    table = Table(
        f"Most unusual findings of check {method}",
        tuple(
            Column(name.replace("_", " "), 4 if name == "p_value" else 1)
            for name in (rows[0] if rows else {"finding": None})
        ),
        tuple(tuple(row.values()) for row in rows),
        note="p value: chance that a clean model shows any finding this unusual",
    )
    print_tables([table], form)
    if form != "table":
        return
    lines = [*found.verdict(), *found.result.notes, *(f"next: {step}" for step in steps)]
    if out is not None:
        lines.append(f"all findings: {out / CHECK_FILE}")
    for line in lines:
        say(line)
