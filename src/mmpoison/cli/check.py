"""The verb `check`: is a model poisoned, whatever the goal?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import echo, live_progress, print_tables, say
from mmpoison.cli.options import As, AsJson, Changes, Format, Seed, named_data, split_changes
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.runs.check_model import CheckedModel

SHOWN = 10
"""So many findings are printed; `model-check.json` has all."""


def check(
    model: Annotated[str, typer.Argument()],
    data: str,
    reference: str | None = None,
    clean: list[str] | None = None,
    clean_runs: Annotated[int, typer.Option(min=0, max=1000)] = 0,
    method: str | None = None,
    changes: Changes = None,
    false_alarms: float = 0.01,
    seed: Seed = 0,
    out: Path | None = None,
    shown: As = "table",
    as_json: AsJson = False,
    device: str = "auto",
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
) -> None:
    """Ask whether a model is poisoned, whatever the goal.

    Example: [bold]mmpoison check model --data scenes --reference start --clean-runs 5 --out check[/bold]

    Options:
        model: The suspect: a name, folder or file (`mmpoison models list` shows how).
        reference: The clean model that the suspect was made from; rank-gain needs it.
        clean: A clean fine-tune of the reference; several times, two at least.
        clean_runs: Make so many clean fine-tunes here, on split val; needs --out.
        method: A check by name (`mmpoison defenses`); rank-gain unless given.
        false_alarms: How often a clean model may be flagged.

    Output:
        out: Write model-check.json and the clean fine-tunes here.
    """
    form: Format = "json" if as_json else shown
    named = named_data(data, format, data_root, option)
    if clean_runs and out is None:
        raise InputError(
            "clean fine-tunes take time and are saved: give a folder with --out (a second check reads them from "
            "there)"
        )
    from mmpoison.api.defenses import check as run_check
    from mmpoison.runs.check_model import DEFAULT_CHECK

    method = method or DEFAULT_CHECK
    options, settings = split_changes("check", method, changes, clean_runs)
    with live_progress(on_stderr=form != "table") as progress:
        found = run_check(
            model,
            named,
            reference=reference,
            method=method,
            clean=clean or (),
            clean_runs=clean_runs,
            settings=settings,
            false_alarms=false_alarms,
            seed=seed,
            out=out,
            device=device,
            progress=progress,
            **options,
        )
    _print(found, method, out, form)


def _print(found: CheckedModel, method: str, out: Path | None, form: Format) -> None:
    """Print the most unusual findings."""
    from mmpoison.reporting.table import Column, Table
    from mmpoison.runs.check_model import CHECK_FILE

    if form == "json":
        echo(json.dumps(found.to_json(), indent=2))
        return
    rows = [one.to_json() for one in found.result.findings[:SHOWN]]
    table = Table(
        f"Most unusual findings of check {method}",
        tuple(
            Column(name.replace("_", " "), 4 if name == "p_value" else 1)
            for name in (rows[0] if rows else {"finding": None})
        ),
        tuple(tuple(row.values()) for row in rows),
        note="p value: the chance that a clean model shows anything as unusual",
    )
    print_tables([table], form)
    if form != "table":
        return
    lines = [*found.verdict(), *found.result.notes]
    if out is not None:
        lines.append(f"all findings: {out / CHECK_FILE}")
    for line in lines:
        say(line)
