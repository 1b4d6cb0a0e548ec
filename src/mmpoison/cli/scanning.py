"""`evaluate --suspect`: is a model poisoned, towards a goal that nobody knows?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmpoison.cli.console import Format, console, echo, monitor, say
from mmpoison.errors import InputError

SHOWN = 10


def scan(
    data: Path,
    suspect: str,
    reference: str | None,
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
    from mmpoison.base.devices import find_device
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.models.loading import load_encoder
    from mmpoison.reporting.table import Column, Table, markdown, terminal
    from mmpoison.reporting.text import safe_text
    from mmpoison.runs.recipe import parse_changes, parse_training
    from mmpoison.runs.scan_model import SCAN_FILE, scan_json, scan_model

    if reference is None:
        raise InputError(
            "--suspect needs --reference, the clean model that the suspect was made from"
        )
    if changes and not clean_runs:
        raise InputError("--set says how to make clean fine-tunes: say how many with --clean-runs")
    settings = parse_training(parse_changes(changes))
    where = find_device(device)
    pairs = load_pairs(data)
    suspected = load_encoder(suspect, trust=trust).to(where)
    before = load_encoder(reference, trust=trust).to(where)
    with monitor(on_stderr=form != "table") as progress:
        found = scan_model(
            pairs,
            suspected,
            before,
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
        echo(json.dumps(scan_json(found, suspected, before, pairs, false_alarms), indent=2))
        return
    table = Table(
        "What came nearer than usual",
        (
            Column("captions of > images of"),
            *(Column(name, 1) for name in ("reference", "clean model", "suspect", "z")),
            Column("p", 4),
        ),
        tuple(
            (
                f"{push.captions} > {push.images}",
                *(push.reference, push.expected, push.suspect, push.z),
                push.p_value,
            )
            for push in found.pushes[:SHOWN]
        ),
        note="typical rank of the first such image, 0-based; p: of a clean fine-tune, over all pairs of kinds",
    )
    if form == "markdown":
        echo(markdown([table]))
        return
    console.print(terminal([table]))
    lines = [f"suspected: {push}" for push in found.flagged(false_alarms)] or [
        f"nothing stands out that clean fine-tunes would not show in {false_alarms:.2g} of cases"
    ]
    if found.null == "own":
        lines.append(
            "compared with its own other pairs of kinds: clean fine-tunes (--clean, --clean-runs, two or more) say more"
        )
    if out is not None:
        lines.append(f"all pairs of kinds: {out / SCAN_FILE}")
    for line in lines:
        say(safe_text(line))
