"""The verb `scan`: is a data set poisoned? One command, with nothing else said."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.base.phrasing import count_of
from mmpoison.base.processes import cores
from mmpoison.cli.console import echo, hold_output, live_progress, say, stderr
from mmpoison.cli.options import (
    SEEDS,
    WORKERS,
    DataOptionsOption,
    DataRootOption,
    DeviceOption,
    OutOption,
    PairsFormatOption,
    named_data,
)
from mmpoison.reporting.text import percent, visible

if TYPE_CHECKING:
    from mmpoison.records.data_scan import DataScan

INCOMPLETE = 1
"""Exit code of a scan in which a shard could not be read."""


def scan(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Embeddings that exist (clip-retrieval, DataComp, two .npy files, Parquet with lists; also s3://, "
            "gs://, hf://), or pairs in any format, or a data set's name."
        ),
    ],
    out: OutOption,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="The model that embeds pairs (efficientnet-minilm unless given); embeddings that exist need none."
        ),
    ] = None,
    lose: Annotated[
        float | None,
        typer.Option(
            help="Drop also the most suspicious single pairs: this share of all. By default only the pairs of "
            "suspected goals are dropped."
        ),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="How often clean data may raise an alarm.")
    ] = 0.01,
    planted: Annotated[
        bool,
        typer.Option(
            "--planted/--no-planted",
            help="Plant goals into a copy of some pairs as a test, to say what would have been found.",
        ),
    ] = True,
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="Seed of samples and folds.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=WORKERS,
            help="Processes, each with a shard at a time; as many as cores by default.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster (HOST:PORT, auto), or local, that does the shards."
        ),
    ] = None,
    device: DeviceOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print scan.json.")] = False,
) -> None:
    """Look for signs of poisoning in pairs: a verdict in plain words, a page, and lists of what to drop and keep.

    Example: [bold]mmpoison scan laion/embeddings --out scan[/bold]

    Example: [bold]mmpoison scan pairs.csv --out scan --option image=path --option caption=text[/bold]

    A scan that was killed resumes with the same command. Exit code 1: some shards could not be read, the others were
    scanned.
    """
    from mmpoison.api.data_scan import scan as run_scan
    from mmpoison.api.data_scan import work_folder

    hold_output(context, out, work=work_folder(out))
    with live_progress(on_stderr=json) as progress:
        done = run_scan(
            named_data(source, format, data_root, option),
            out=out,
            encoder=encoder,
            lose=lose,
            false_alarms=false_alarms,
            planted=planted,
            seed=seed,
            workers=workers or cores(),
            ray=ray,
            device=device,
            progress=progress,
        )
    for shard in done.failed:
        stderr(f"mmpoison: warning: shard {shard.shard}: {shard.reason}")
    if json:
        echo(dumps(done.to_json(), indent=2, ensure_ascii=False))
    else:
        for line in _lines(done, out):
            say(line)
    if done.failed:
        raise typer.Exit(INCOMPLETE)


def _lines(done: DataScan, out: Path) -> list[str]:
    """Describe a scan, a line a fact: the verdict first."""
    lines = [f"{done.verdict.capitalize()}. {' '.join(done.summary)}"]
    for number, group in enumerate(done.groups, 1):
        lines.append(f"  {number}. {group.grade}: {group.sentence}")
        if group.grade != "as in clean data":
            lines += [
                f"     why: {group.why}",
                f"     what else could explain it: {'; '.join(group.other_explanations)}",
            ]
    lines += [f"note: {note}" for note in done.notes]
    lines.append(
        f"{visible(done.source)}: {done.format}, {done.pairs:,} pairs in {count_of(len(done.shards), 'shard')}; "
        f"{done.dropped:,} dropped ({percent(done.dropped / max(done.pairs, 1))})"
    )
    lines += [f"next: {step}" for step in done.next_steps]
    lines.append(f"the page: {out / 'scan.html'}; lists of pairs: {out}")
    return lines
