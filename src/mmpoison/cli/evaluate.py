"""The verb `evaluate`: measure the effect of poison, and the utility of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import echo, hold_output, live_progress, print_tables, say
from mmpoison.cli.options import (
    MEASURED,
    OUTPUT,
    AllOption,
    DataFormatOption,
    DataOption,
    DataOptionsOption,
    DataRootOption,
    DeviceOption,
    Format,
    FormatOption,
    MethodSetOption,
    SeedOption,
    StudyOption,
    named_data,
    split_changes,
)
from mmpoison.cli.report import print_metrics
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.runs.scan_model import ScannedModel

SHOWN = 10
"""So many findings of a scan are printed; `model-scan.json` has all."""


def evaluate(
    context: typer.Context,
    data: DataOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="A model's name, folder or file (`mmpoison models list` shows how)."
        ),
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="A2B, e.g. sheep2aeroplane; several times for several goals. Those of the manifest by default.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    target_image: Annotated[
        str | None,
        typer.Option(
            help="One test image by its path in the data: the whole target set (attack I). The manifest's by default.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A manifest.json (of a poisoned folder or a run) that says what to measure, if not the data's own.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="A clean model, to compare with and to measure drift from.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="The model before any fine-tuning, as a third baseline.", rich_help_panel=MEASURED
        ),
    ] = None,
    study: StudyOption = None,
    suspect: Annotated[
        str | None,
        typer.Option(
            help="Instead of --model: is this model poisoned, whatever the goal? Needs --reference, the "
            "model it was made from.",
            rich_help_panel="Is it poisoned?",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--scan",
            help="With --suspect: a scan by name (`mmpoison defenses`); rank-gain unless given.",
            rich_help_panel="Is it poisoned?",
        ),
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="With --suspect: a clean fine-tune of the reference; several times, two at least.",
            rich_help_panel="Is it poisoned?",
        ),
    ] = None,
    clean_runs: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="With --suspect: make so many clean fine-tunes here, on split val.",
            rich_help_panel="Is it poisoned?",
        ),
    ] = 0,
    changes: MethodSetOption = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            help="With --suspect: how often a clean fine-tune may be flagged.",
            rich_help_panel="Is it poisoned?",
        ),
    ] = 0.01,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write metrics.json (--suspect: model-scan.json) here.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    form: FormatOption = "table",
    whole: AllOption = False,
    device: DeviceOption = "auto",
    data_format: DataFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
) -> None:
    """Measure what captions of A retrieve, and the model's usual quality.

    Example: [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane[/bold]

    [bold]mmpoison evaluate --data poisoned --model model --reference clean --study all[/bold]

    [bold]mmpoison evaluate --data scenes --model model --goal sheep2aeroplane --target-image aeroplane/0101.jpg[/bold]

    Is it poisoned? [bold]mmpoison evaluate --data scenes --suspect model --reference start --clean-runs 5
    --out scan[/bold]
    """
    named = named_data(data, data_format, data_root, option)
    if suspect is not None:
        given: dict[str, object] = {
            "--model": model,
            "--goal": goal,
            "--target-image": target_image,
        }
        given |= {"--study": study, "--manifest": manifest, "--pretrained": pretrained}
        if unused := [name for name, value in given.items() if value]:
            raise InputError(f"--suspect has no use for {unused[0]}: it finds goals itself")
        if clean_runs and out is None:
            raise InputError(
                "clean fine-tunes take time and are saved: give a folder with --out (a second scan reads them from "
                "there)"
            )
        from mmpoison.api.defenses import scan
        from mmpoison.runs.scan_model import DEFAULT_SCAN

        method = method or DEFAULT_SCAN
        options, settings = split_changes("scan", method, changes, clean_runs)
        with live_progress(on_stderr=form != "table") as progress:
            found = scan(
                suspect,
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
        _print_scan(found, method, out, form)
        return
    if clean or clean_runs or changes or method:
        raise InputError("--clean, --clean-runs, --scan and --set belong to --suspect")
    if model is None:
        raise InputError("which model? --model measures one, --suspect asks whether it is poisoned")
    from mmpoison.api import evaluation as api

    if out is not None:
        hold_output(context, out)
    with live_progress(on_stderr=form != "table") as progress:
        metrics = api.evaluate(
            model,
            named,
            goal=goal or (),
            target_image=target_image,
            manifest=manifest,
            reference=reference,
            pretrained=pretrained,
            study=study or (),
            seed=seed,
            out=out,
            device=device,
            progress=progress,
        ).metrics
    print_metrics(metrics, form, whole=whole)


def _print_scan(found: ScannedModel, method: str, out: Path | None, form: Format) -> None:
    """Print the most unusual findings of a scan."""
    from mmpoison.reporting.table import Column, Table
    from mmpoison.runs.scan_model import SCAN_FILE

    if form == "json":
        echo(json.dumps(found.to_json(), indent=2))
        return
    rows = [one.to_json() for one in found.result.findings[:SHOWN]]
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
    if form != "table":
        return
    lines = [*found.verdict(), *found.result.notes]
    if out is not None:
        lines.append(f"all findings: {out / SCAN_FILE}")
    for line in lines:
        say(line)
