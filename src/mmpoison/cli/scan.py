"""The verb `scan`: checks a data set for poison and lists the pairs to drop, without any option but `--out`."""

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
    """Look for signs of poisoning in pairs; write a verdict, a page, and lists of the pairs to drop and to keep.

    Example: [bold]mmpoison scan laion/embeddings --out scan[/bold]

    Example: [bold]mmpoison scan pairs.csv --out scan --option image=path --option caption=text[/bold]

    Example: [bold]mmpoison scan poisoned --method relevance-filter --encoder openmoji-mini --lose 0.02
    --kept kept --out scan[/bold]

    Example: [bold]mmpoison scan pairs --labels labels.csv --kept kept --out scan-2[/bold]

    A scan that was killed resumes with the same command, and another cut needs no second pass over the images. Exit
    code 1 means that some shards could not be read; the others were scanned.

    Options:
        source: Precomputed embeddings (clip-retrieval, DataComp, two .npy files, Parquet with lists; also s3://,
            gs://, hf://), or pairs in any format, or a data set's name.
        method: A defence before training (`mmpoison defenses` shows them), for example relevance-filter: drop pairs
            whose image and caption do not match.
        changes: A parameter of the method, e.g. k=32.
        seed: Seed of samples and folds.
        workers: Processes, each with one shard at a time; by default one for each core.
        ray: Address of a Ray cluster (HOST:PORT, auto), or local, whose workers scan the shards.
        as_json: Print scan.json.

    Cut, give one:
        threshold: ...
        lose: The share of clean pairs that may be dropped, measured on split val where there is one and the
            method can use it, otherwise that share of all pairs; with --labels, the largest share.
        labels: Your verdicts, a CSV with the columns pair and verdict (keep or drop), as `mmpoison review` writes:
            they are final, and a method without groups learns from them where to cut.
        false_alarms: Share of clean data sets that may raise an alarm, 0.01 by default; for a method that finds groups.

    Model:
        encoder: The model that embeds pairs (by default efficientnet-minilm); do not use the model that you train.
            Precomputed embeddings need none.
        trusted: The split that --lose is measured on; none: the scanned pairs themselves.
        force: Use a model even if it cannot distinguish true from shuffled pairs.
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
