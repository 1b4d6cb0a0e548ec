"""`evaluate --suspect`: scans a model for poison with an unknown goal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmpoison.cli.console import Format, console, echo, live_progress, say
from mmpoison.errors import InputError

SHOWN = 10


def scan(
    data: Path,
    suspect: str,
    reference: str | None,
    method: str | None,
    clean: Sequence[str],
    clean_runs: int,
    changes: Sequence[str],
    false_alarms: float,
    *,
    seed: int,
    out: Path | None,
    form: Format,
    device: str,
    trust: bool,
) -> None:
    """Scan a model and show the findings; the options are those of `evaluate`."""
    from mmpoison.base.devices import find_device
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.defenses.catalogue import split_options
    from mmpoison.models.loading import load_encoder
    from mmpoison.reporting.table import Column, Table, markdown, terminal
    from mmpoison.reporting.text import safe_text
    from mmpoison.runs.recipe import parse_changes, parse_training
    from mmpoison.runs.scan_model import DEFAULT_SCAN, SCAN_FILE, scan_model

    method = method or DEFAULT_SCAN
    options, training = split_options("scan", method, parse_changes(changes))
    if training and not clean_runs:
        raise InputError(
            f"--set {next(iter(training))}: scan {method!r} has no such option; a setting of clean fine-tunes needs "
            "--clean-runs, which says how many"
        )
    settings = parse_training(training)
    where = find_device(device)
    pairs = load_pairs(data)
    suspected = load_encoder(suspect, trust=trust).to(where)
    before = load_encoder(reference, trust=trust).to(where) if reference is not None else None
    with live_progress(on_stderr=form != "table") as progress:
        done = scan_model(
            pairs,
            suspected,
            before,
            method=method,
            options=options,
            clean=clean,
            clean_runs=clean_runs,
            settings=settings,
            out=out,
            seed=seed,
            false_alarms=false_alarms,
            trust=trust,
            progress=progress,
        )
    if form == "json":
        echo(json.dumps(done.to_json(), indent=2))
        return
    rows = [found.to_json() for found in done.result.findings[:SHOWN]]
    table = Table(
        f"Most unusual findings of scan {method}",
        tuple(
            Column(name.replace("_", " "), 4 if name == "p_value" else 1)
            for name in (rows[0] if rows else {"finding": None})
        ),
        tuple(tuple(row.values()) for row in rows),
        note="p value: the chance that a clean model shows anything as unusual",
    )
    if form == "markdown":
        echo(markdown([table]))
        return
    console.print(terminal([table]))
    lines = [f"possible poisoning: {found}" for found in done.flagged] or [
        f"nothing unusual: a clean model shows as much in more than {false_alarms:.2g} of cases"
    ]
    lines += done.result.notes
    if out is not None:
        lines.append(f"all findings: {out / SCAN_FILE}")
    for line in lines:
        say(safe_text(line))
