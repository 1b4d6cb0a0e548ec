"""The verb `scan`: is a data set poisoned, and which pairs go? One command, with nothing else said."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmpoison.base.phrasing import count_of
from mmpoison.base.processes import cores
from mmpoison.cli.console import (
    echo,
    hold_output,
    live_progress,
    say,
    stderr,
)
from mmpoison.cli.options import Changes, Images, Seed, Workers, named_data
from mmpoison.reporting.text import percent, visible

if TYPE_CHECKING:
    from mmpoison.records.data_scan import DataScan

INCOMPLETE = 1
"""Exit code of a scan in which a shard could not be read."""

CUT, JUDGE = "Cut (give one)", "Model"


def scan(
    context: typer.Context,
    source: Annotated[str, typer.Argument()],
    out: Path,
    method: str = "suspicious-groups",
    parameters: Changes = None,
    kept: Path | None = None,
    images: Images = "link",
    planted: bool = True,
    threshold: float | None = None,
    lose: float | None = None,
    auto: bool = False,
    labels: Path | None = None,
    false_alarms: float | None = None,
    encoder: str | None = None,
    trusted: Literal["val", "none"] = "val",
    force: bool = False,
    format: str | None = None,
    data_root: Path | None = None,
    option: list[str] | None = None,
    seed: Seed = 0,
    workers: Workers = None,
    ray: str | None = None,
    device: str = "auto",
    json: bool = False,
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
        parameters: A parameter of the method, e.g. k=32.
        kept: New folder for the pairs that stay, as a data set with its images.
        planted: Plant goals into a copy of some pairs as a test, to say what would have been found.
        seed: Seed of samples and folds.
        workers: Processes, each with a shard at a time; as many as cores by default.
        ray: Address of a Ray cluster (HOST:PORT, auto), or local, that does the shards.
        json: Print scan.json.

    Cut (give one):
        threshold: Drop pairs with a larger score.
        lose: The share of clean pairs you are ready to lose, measured on split val where there is one and the
            method can use it, otherwise that share of all pairs; with --labels, the largest share.
        auto: By the scores alone; drops 1% if all is well.
        labels: Your verdicts, a CSV with the columns pair and verdict (keep or drop), as `mmpoison review` writes:
            they are final, and a method without groups learns from them where to cut.
        false_alarms: How often clean data may raise an alarm, 0.01 unless given; for a method that finds groups.

    Model:
        encoder: The model that embeds pairs (efficientnet-minilm unless given), another one than you train;
            embeddings that exist need none.
        trusted: What --lose is measured on; none: the judged pairs themselves.
        force: Use a model that cannot distinguish true from shuffled pairs; refused otherwise, where it matters.
    """
    from mmpoison.api.data_scan import scan as run_scan
    from mmpoison.api.data_scan import work_folder
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.defenses.filters.score_filter import build_filter

    hold_output(context, out, work=work_folder(out))
    cut = {
        "threshold": threshold,
        "clean_loss": lose,
        "automatic": auto or None,
        "labels": labels,
        "false_alarms": false_alarms,
    }
    given = {name: value for name, value in cut.items() if value is not None}
    chosen = build_filter(method, {**parse_changes(parameters or []), **given})
    with live_progress(on_stderr=json) as progress:
        done = run_scan(
            named_data(source, format, data_root, option),
            out=out,
            encoder=encoder,
            method=chosen,
            planted=planted,
            trusted=trusted,
            force=force,
            kept=kept,
            images=images,
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
        for line in _lines(done, out, kept):
            say(line)
    if done.failed:
        raise typer.Exit(INCOMPLETE)


def _lines(done: DataScan, out: Path, kept: Path | None) -> list[str]:
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
        f"{done.dropped:,} dropped ({percent(done.dropped / max(done.pairs, 1))})" + _above(done)
    )
    if (known := done.known) is not None:
        lines.append(
            f"by the manifest: {known.poisoned_caught} of {known.poisoned_total} poisoned pairs dropped, "
            f"{known.clean_dropped} clean ones lost"
            + (
                ""
                if known.auroc is None
                else f", AUROC {known.auroc:.3f}, average precision {known.average_precision:.3f}"
            )
        )
    lines += [f"next: {step}" for step in done.next_steps]
    if kept is not None:
        lines.append(f"the pairs that stay: {kept}")
    lines.append(f"the page: {out / 'scan.html'}; lists of pairs: {out}")
    return lines


def _above(done: DataScan) -> str:
    """Say where a scan cut and what that is expected to cost, as the end of a line."""
    cut = done.cut
    if cut is None or cut.rule == "false-alarms":
        return ""
    text = f": scores above {cut.value:.4f}"
    if cut.interval is not None:
        text += " (95% confidence {:.4f} to {:.4f})".format(*cut.interval)
    if cut.loss is not None:
        text += f", expected to be {percent(cut.loss)} of the clean pairs"
        if cut.loss_interval is not None:
            text += " ({} to {})".format(*map(percent, cut.loss_interval))
    return text
