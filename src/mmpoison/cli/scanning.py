"""`evaluate --suspect`: scans a model for poison towards a goal that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmpoison.cli.console import echo, monitor, say
from mmpoison.cli.options import Format, split_changes
from mmpoison.cli.report import print_tables
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
    """Scan and show; the options are those of `evaluate`."""
    from mmpoison.api import defenses as api
    from mmpoison.reporting.table import Column, Table
    from mmpoison.reporting.text import safe_text
    from mmpoison.runs.scan_model import DEFAULT_SCAN, SCAN_FILE

    method = method or DEFAULT_SCAN
    if clean_runs and out is None:
        raise InputError(
            "clean fine-tunes take time and are saved: give a folder with --out (a second scan reads them from there)"
        )
    options, settings = split_changes("scan", method, changes, clean_runs)
    with monitor(on_stderr=form != "table") as progress:
        done = api.scan(
            suspect,
            data,
            reference=reference,
            method=method,
            clean=clean,
            clean_runs=clean_runs,
            settings=settings,
            false_alarms=false_alarms,
            seed=seed,
            out=out,
            device=device,
            trust=trust,
            progress=progress,
            **options,
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
    print_tables([table], form)
    if form == "markdown":
        return
    lines = [f"possible poisoning: {found}" for found in done.flagged] or [
        f"nothing unusual: a clean model shows as much in more than {false_alarms:.2g} of cases"
    ]
    lines += done.result.notes
    if out is not None:
        lines.append(f"all findings: {out / SCAN_FILE}")
    for line in lines:
        say(safe_text(line))
