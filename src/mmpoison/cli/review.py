"""The verb `review`: shows a scan's groups and pairs on a local page and saves your verdicts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpoison.cli.console import (
    DEFAULT_PORT,
    announce,
    check_pages,
    live_progress,
    say,
)
from mmpoison.cli.options import Open, Port

if TYPE_CHECKING:
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.defenses.scan.cut.labels import LabelFile


def review(
    result: Annotated[Path, typer.Argument()],
    labels: Path,
    data: NamedData | None = None,
    count: Annotated[int, typer.Option(min=1, max=100_000)] = 200,
    random: bool = False,
    encoder: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    open_it: Open = True,
) -> None:
    """Review the groups and the most suspicious pairs of a scan on a local page.

    One key keeps or drops a pair or a whole group. Each verdict is saved at once, and the same command resumes.
    `mmpoison scan --labels` reads the CSV.

    Example: [bold]mmpoison review scan --labels labels.csv[/bold]

    Example: [bold]mmpoison review scan --labels labels.csv --encoder openmoji-mini --count 50[/bold]

    Options:
        result: Result folder of `mmpoison scan`.
        labels: CSV file for your verdicts; an existing one is resumed.
        data: Scanned data set, if it has moved.
        count: Number of pairs to show, the most suspicious first.
        random: Show pairs of all scores, half from the largest 2%, to label data for a cut.
        encoder: Model that embeds all pairs, to show similar ones.
    """
    check_pages("review")
    from mmpoison.defenses.scan.cut.labels import LabelFile
    from mmpoison.defenses.scan.read.pieces import PairPieces
    from mmpoison.pages.local_app import serve
    from mmpoison.pages.review import (
        add_neighbours,
        as_scanned,
        group_members,
        review_app,
        scanned_pairs,
    )
    from mmpoison.records.data_scan import read_scan

    found = read_scan(result)
    assert data is not None, "always given: its name may be empty"
    named = replace(data, data=data.data) if data.data else as_scanned(found, result, data)
    pieces = PairPieces(named)
    pairs = scanned_pairs(result, pieces, count, random=random)
    if encoder is not None:
        from mmpoison.base.processes import find_device
        from mmpoison.models.loading import load_encoder

        model = load_encoder(encoder).to(find_device(device))
        with live_progress() as progress:
            pairs = add_neighbours(pairs, pieces, model, progress=progress.progress)
    with LabelFile(labels, (pair.pair for pair in pairs)) as file:
        title = f"{len(pairs):,} of {found.pairs:,} pairs of {data.data or found.source}"
        app = review_app(
            pairs, file, title=title, scan=found, members=group_members(result), host=host
        )
        serve(app, host=host, port=port, ready=partial(announce, open_it=open_it))
        _summary(file)


def _summary(labels: LabelFile) -> None:
    given = list(labels.labels().values())
    say(
        f"{labels.file}: {given.count('keep')} keep, {given.count('drop')} drop, "
        f"{given.count('unsure')} unsure, {given.count('')} open"
    )
