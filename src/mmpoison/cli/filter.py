"""The verb `filter`: drop suspicious pairs before training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.cli.console import (
    DEFAULT_PORT,
    PortOption,
    check_pages,
    hold_output,
    live_progress,
    say,
    stderr,
)
from mmpoison.cli.options import (
    COMPUTE,
    SEEDS,
    DataOption,
    DataOptionsOption,
    DataRootOption,
    DeviceOption,
    ImagesOption,
    OutOption,
    PairsFormatOption,
    named_data,
)
from mmpoison.errors import InputError
from mmpoison.reporting.text import percent

if TYPE_CHECKING:
    from mmpoison.defenses.filter_result import FilterResult, SuspectedGoal


def filter_(
    context: typer.Context,
    data: DataOption,
    out: OutOption,
    encoder: Annotated[str, typer.Option(help="The judge: a model other than the one to train.")],
    method: Annotated[
        str,
        typer.Option(
            help="A defence before training (`mmpoison defenses` shows them), for example suspicious-groups: find the "
            "goals that the data are poisoned towards, name them and drop their pairs."
        ),
    ] = "relevance-filter",
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the defence, e.g. k=32."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Drop pairs with a larger score (cosine distance).",
            rich_help_panel="Cut (give one)",
        ),
    ] = None,
    lose: Annotated[
        float | None,
        typer.Option(
            "--lose",
            "--clean-loss",
            help="The share of clean pairs you are ready to lose, measured on split val where there is one and "
            "the method can use it, otherwise that share of all pairs; with --labels, the largest share.",
            rich_help_panel="Cut (give one)",
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="By the scores alone; drops 1% if all is well.",
            rich_help_panel="Cut (give one)",
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="By a CSV with the columns pair and verdict (keep or drop).",
            rich_help_panel="Cut (give one)",
        ),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="How often clean data may raise an alarm, 0.01 unless given; for a method that finds groups.",
            rich_help_panel="Cut (give one)",
        ),
    ] = None,
    label: Annotated[
        bool,
        typer.Option(
            "--label",
            help="Ask on a page in your browser about a random few pairs, and write the answers into --labels; without "
            "a browser, fill in that CSV.",
            rich_help_panel="Labels by hand",
        ),
    ] = False,
    page: Annotated[bool, typer.Option("--page", hidden=True)] = False,
    port: PortOption = DEFAULT_PORT,
    label_pairs: Annotated[
        int,
        typer.Option(
            min=4,
            max=100_000,
            help="How many pairs --label shows.",
            rich_help_panel="Labels by hand",
        ),
    ] = 120,
    trusted: Annotated[
        Literal["val", "none"],
        typer.Option(
            help="What --lose is measured on; none: the judged pairs themselves.",
            rich_help_panel="Judge",
        ),
    ] = "val",
    victim: Annotated[
        str | None,
        typer.Option(
            help="The model you will train; a judge with the same weights is refused.",
            rich_help_panel="Judge",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Use a judge that cannot distinguish true from shuffled pairs; refused otherwise.",
            rich_help_panel="Judge",
        ),
    ] = False,
    images: ImagesOption = "link",
    format: PairsFormatOption = None,
    data_root: DataRootOption = None,
    option: DataOptionsOption = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=SEEDS,
            help="Which pairs --label shows; clusterings.",
            rich_help_panel=COMPUTE,
        ),
    ] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Drop suspicious training pairs before training, by default those whose image and caption do not match.

    Every method takes every cut that it can serve, and all but relevance-filter have a default. A killed
    relevance-filter resumes, and another threshold needs no second pass over the images. Images that cannot be read
    are left out and named in unreadable.jsonl.

    Example: [bold]mmpoison filter --data poisoned --encoder openmoji-mini --lose 0.02 --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder JUDGE --label --labels labels.csv --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder MODEL --method suspicious-groups --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder MODEL --method local-density --set k=32 --out kept[/bold]
    """
    from mmpoison.api import defenses as api
    from mmpoison.base.untrusted import parse_changes
    from mmpoison.cli.review import ask_on_page
    from mmpoison.defenses.catalogue import build_filter

    hold_output(context, out)
    if label and labels is None:
        raise InputError("--label needs --labels FILE, where the answers are written")
    cut: dict[str, Any] = {
        "threshold": threshold,
        "clean_loss": lose,
        "automatic": auto or None,
        "labels": labels,
        "false_alarms": false_alarms,
    }
    given = {name: value for name, value in cut.items() if value is not None}
    chosen = build_filter(method, {**parse_changes(parameters or []), **given})
    if label:
        check_pages("filter --label")
    with live_progress() as progress:
        done = api.filter(
            named_data(data, format, data_root, option),
            encoder,
            method=chosen,
            trusted=trusted,
            victim=victim,
            force=force,
            seed=seed,
            out=out,
            images=images,
            ask=partial(ask_on_page, title=f"Labels for {data}", port=port) if label else None,
            label_pairs=label_pairs,
            device=device,
            progress=progress,
        )
    for line in _summary(done, out):
        say(line)


def _summary(done: FilterResult, out: Path) -> list[str]:
    """Describe a filtered folder, one line a fact; name unreadable images on standard error."""
    from mmpoison.defenses.filters.decide import judge_note
    from mmpoison.defenses.filters.filtered_folder import GOALS_FILE, REPORT_FOLDER

    lines: list[str] = []
    if done.goals is not None:
        for goal in done.goals:
            lines += [str(goal), *_reasons(goal)]
        if not done.goals:
            lines.append("no goal suspected")
        if not done.goals and done.unproven:
            lines.append(f"the strongest of what may be chance: {done.unproven[0]}")
        lines.append(f"the evidence is in {out / GOALS_FILE}")
    above = (
        "" if done.cut.rule == "false-alarms" else f", dropped scores above {done.cut.value:.4f}"
    )
    lines.append(
        f"{out}: kept {int(done.keep.sum()):,} of {len(done.keep):,} training pairs{_left_out(done, out)}{above}; "
        f"verdicts in {out / 'verdicts.jsonl'}"
    )
    judge = [] if done.judge is None else [judge_note(done.judge)]
    lines += [*judge, *_cost(done), *_known(done), *done.notes]
    lines.append(f"the most suspicious pairs: {out / REPORT_FOLDER / 'suspicious.html'}")
    return lines


def _reasons(goal: SuspectedGoal) -> list[str]:
    return [
        f"  why: {goal.why}",
        f"  what else could explain it: {'; '.join(goal.other_explanations)}",
    ]


def _left_out(done: FilterResult, out: Path) -> str:
    """Count the pairs left out for unreadable images, as text; report on standard error where they are listed."""
    from mmpoison.defenses.unreadable import UNREADABLE_FILE

    found = done.unreadable
    if not found:
        return ""
    stderr(f"mmpoison: warning: {found}: left out, listed in {out / UNREADABLE_FILE}")
    return f" ({found.pairs:,} more left out: {found})"


def _cost(done: FilterResult) -> list[str]:
    cut = done.cut
    lines = [cut.note] if cut.note else []
    if cut.interval is not None:
        low, high = cut.interval
        lines.append(f"threshold {cut.value:.4f}, 95% confidence {low:.4f} to {high:.4f}")
    if cut.loss is not None:
        line = f"expected to drop {percent(cut.loss)} of the clean pairs"
        if cut.loss_interval is not None:
            line += " ({} to {})".format(*map(percent, cut.loss_interval))
        lines.append(line)
    return lines


def _known(done: FilterResult) -> list[str]:
    facts = done.facts()
    if "poisoned_total" not in facts:
        return []
    line = (
        f"by the manifest: {facts['poisoned_caught']} of {facts['poisoned_total']} poisoned pairs dropped, "
        f"{facts['clean_dropped']} clean ones lost"
    )
    if "auroc" in facts:
        line += f", AUROC {facts['auroc']:.3f}, average precision {facts['average_precision']:.3f}"
    return [line]
