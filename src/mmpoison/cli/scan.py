"""The verb `scan`: is a data set poisoned, and which pairs go? One command, with nothing else said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.api.data_scan import scan as scan_pairs
from mmpoison.api.data_scan import work_folder
from mmpoison.base.processes import cores
from mmpoison.cli.console import hold_output, print_json, say, stderr
from mmpoison.cli.options import AsJson, Workers
from mmpoison.cli.verb import verb

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.reporting.scan_result import ScanResult

INCOMPLETE = 1
"""Exit code of a scan in which a shard could not be read."""


@verb(scan_pairs)
def scan(
    call: Callable[..., ScanResult],
    context: typer.Context,
    source: Annotated[NamedData, typer.Argument()],
    out: Path,
    kept: Path | None = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Look for signs of poisoning in pairs: a verdict in plain words, a page, and lists of what to drop and keep.

    Example: [bold]mmpoison scan laion/embeddings --out scan[/bold]

    Example: [bold]mmpoison scan pairs.csv --out scan --option image=path --option caption=text[/bold]

    Example: [bold]mmpoison scan poisoned --method relevance-filter --encoder openmoji-mini --lose 0.02
    --kept kept --out scan[/bold]

    Example: [bold]mmpoison scan pairs --labels labels.csv --kept kept --out scan-2[/bold]

    A scan that was killed resumes with the same command, and another cut needs no second pass over the images. Exit
    code 1: some shards could not be read, the others were scanned.

    Options:
        source: Embeddings that exist (clip-retrieval, DataComp, two .npy files, Parquet with lists; also s3://,
            gs://, hf://), or pairs in any format, or a data set's name.
        method: A defence before training (`mmpoison defenses` shows them), for example relevance-filter: drop pairs
            whose image and caption do not match.
        changes: A parameter of the method, e.g. k=32.
        seed: Seed of samples and folds.
        workers: Processes, each with a shard at a time; as many as cores by default.
        ray: Address of a Ray cluster (HOST:PORT, auto), or local, that does the shards.
        as_json: Print scan.json.

    Cut (give one):
        threshold
        lose: The share of clean pairs you are ready to lose, measured on split val where there is one and the
            method can use it, otherwise that share of all pairs; with --labels, the largest share.
        labels: Your verdicts, a CSV with the columns pair and verdict (keep or drop), as `mmpoison review` writes:
            they are final, and a method without groups learns from them where to cut.
        false_alarms: How often clean data may raise an alarm, 0.01 unless given; for a method that finds groups.

    Model:
        encoder: The model that embeds pairs (efficientnet-minilm unless given), another one than you train;
            embeddings that exist need none.
        trusted: What --lose is measured on; none: the judged pairs.
        force: Use a model that cannot distinguish true from shuffled pairs; refused otherwise, where it matters.
    """
    hold_output(context, out, work=work_folder(out))
    done = call(workers=workers or cores())
    for shard in done.failed:
        stderr(f"mmpoison: warning: shard {shard.shard}: {shard.reason}")
    if as_json:
        print_json(done.to_json())
    else:
        for line in done.lines(kept):
            say(line)
    if done.failed:
        raise typer.Exit(INCOMPLETE)
