"""The verb `scan`: checks a data set for poison and lists the pairs to drop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.api.defenses import scan as scan_pairs
from mmpoison.api.defenses import work_folder
from mmpoison.base.processes import cores
from mmpoison.cli.console import hold_output, print_json, say, stderr
from mmpoison.cli.options import AsJson, Workers
from mmpoison.cli.verb import verb

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.reporting.scan_result import ScanResult

INCOMPLETE = 1
"""Exit code of a scan that could not read a shard."""


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
    """Scan pairs for poisoning; write a verdict, a page, and lists of pairs to drop and keep.

    Example: [bold]mmpoison scan laion/embeddings --out scan[/bold]

    Example: [bold]mmpoison scan pairs.csv --out scan --option image=path --option caption=text[/bold]

    Example: [bold]mmpoison scan poisoned --method relevance-filter --encoder openmoji-mini --lose 0.02
    --kept kept --out scan[/bold]

    Example: [bold]mmpoison scan pairs --labels labels.csv --kept kept --out scan-2[/bold]

    The same command resumes a stopped scan, and another cut needs no second pass over the images. Exit code 1 means
    that some shards could not be read; the others were scanned.

    Options:
        source: Embeddings (clip-retrieval, DataComp, .npy or Parquet; also in s3://, gs://, hf://), pairs in any
            format, or the name of a data set.
        method: Pre-training defence (see `mmpoison defenses`).
        changes: Parameter of the method, e.g. k=32.
        seed: Random seed for samples and folds.
        workers: Number of processes, each with one shard at a time (default: one per core).
        ray: Address of a Ray cluster that scans the shards: HOST:PORT, auto or local.
        as_json: Print scan.json.

    Cut, give one:
        threshold: ...
        lose: Acceptable loss of clean pairs, measured on split val if possible, otherwise as a share of all pairs.
        labels: CSV of final verdicts (columns pair and verdict), as `mmpoison review` writes; also sets the cut of a
            method without groups.
        false_alarms: Share of clean data sets that may raise an alarm (default: 0.01), for methods that find groups.

    Model:
        encoder: Model that embeds the pairs (default: efficientnet-minilm); do not use the model that you train.
        trusted: Split on which --lose is measured; none: the scanned pairs.
        force: Use the model even if it cannot distinguish true from shuffled pairs.
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
