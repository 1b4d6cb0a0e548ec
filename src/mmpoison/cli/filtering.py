"""The verb `filter`: drop pairs whose image and caption do not fit, before training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmpoison.base.phrasing import count_of
from mmpoison.cli.console import SEEDS, DeviceOption, console, monitor, say, stderr
from mmpoison.cli.output import hold_output
from mmpoison.cli.serving import DEFAULT_PORT, PortOption, check_pages
from mmpoison.errors import InputError
from mmpoison.reporting.text import percent

if TYPE_CHECKING:
    from mmpoison.defenses.filters.thresholds import Threshold
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.runs.filter_set import Ask


def filter_(
    context: typer.Context,
    data: Annotated[str, typer.Option("--data", help="Pairs in any format, or a data set's name.")],
    out: Annotated[Path, typer.Option("--out", help="New folder.")],
    encoder: Annotated[str, typer.Option(help="The judge: a model other than the one to train.")],
    method: Annotated[
        str,
        typer.Option(
            help="suspicious-groups: find the goals that the data push, name them and drop their pairs; or any other "
            "defence before training (`mmpoison defenses` shows them)."
        ),
    ] = "relevance-filter",
    knobs: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A knob of that other defence, e.g. k=32."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            help="suspicious-groups: how often clean data may raise an alarm, 0.01 unless given."
        ),
    ] = None,
    victim: Annotated[
        str | None,
        typer.Option(help="The model you will train; a judge with the same weights is refused."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Drop pairs with a larger cosine distance.")
    ] = None,
    lose: Annotated[
        float | None,
        typer.Option(
            "--lose",
            "--clean-loss",
            help="Instead: the share of clean pairs you are ready to lose, measured on split val where there is one; "
            "with --labels, the largest share; with suspicious-groups, the share of all pairs, beside the goals' own.",
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto", help="Instead: by the distances alone; drops 1 % where all is well."
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="Instead: by a CSV with the columns pair and verdict (keep or drop)."),
    ] = None,
    label: Annotated[
        bool,
        typer.Option("--label", help="Show a random few pairs here and take keys, into --labels."),
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--page", help="With --label: ask on a page in your browser, not here."),
    ] = False,
    port: PortOption = DEFAULT_PORT,
    label_pairs: Annotated[
        int, typer.Option(min=4, max=100_000, help="How many pairs --label shows.")
    ] = 120,
    trusted: Annotated[
        Literal["val", "none"],
        typer.Option(help="What --lose is measured on; none: the judged pairs themselves."),
    ] = "val",
    images: Annotated[
        Literal["link", "copy", "none"],
        typer.Option("--images", help="Hard links (no copy), copies, or the table alone."),
    ] = "link",
    format: Annotated[
        str | None, typer.Option("--format", help="Format of --data, if it is not recognised.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=SEEDS, help="Which pairs --label shows; clusterings.")
    ] = 0,
    device: DeviceOption = "auto",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust", help="Open TorchScript archives (OpenAI's format): they can run code."
        ),
    ] = False,
) -> None:
    """Drop training pairs whose image and caption do not fit, before training.

    A filter that was killed goes on where it was, and another threshold needs no second look at the images. Images that
    cannot be read are left out and named in unreadable.jsonl.

    Example: [bold]mmpoison filter --data poisoned --encoder openmoji-mini --lose 0.02 --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder JUDGE --label --page --labels labels.csv --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder MODEL --method suspicious-groups --out kept[/bold]

    Example: [bold]mmpoison filter --data pairs --encoder MODEL --method neighbour-outliers --set k=32 --out kept[/bold]
    """
    from mmpoison.base.devices import find_device
    from mmpoison.cli.labelling import check_terminal
    from mmpoison.cli.labelling import label_pairs as ask_for_labels
    from mmpoison.cli.review import ask_on_page
    from mmpoison.models.loading import load_encoder
    from mmpoison.runs.filter_set import REPORT_FOLDER, FilterRule, filter_set

    hold_output(context, out)
    cuts = [
        name
        for name, given in (
            ("--threshold", threshold is not None),
            ("--auto", auto),
            ("--labels", labels is not None or label),
        )
        if given
    ]
    if method == "suspicious-groups":
        if cuts:
            raise InputError(
                f"--method suspicious-groups has no use for {cuts[0]}: it takes --false-alarms and --lose"
            )
        where = find_device(device)
        chosen = load_encoder(encoder, trust=trust).to(where)
        alarms = 0.01 if false_alarms is None else false_alarms
        _scan_goals(data, chosen, out, alarms, lose, format, images, seed)
        return
    if method != "relevance-filter":
        if cuts or false_alarms is not None:
            raise InputError(
                f"--method {method} has no use for {[*cuts, '--false-alarms'][0]}: it takes --set and --lose"
            )
        _filter_whole(data, encoder, out, method, knobs, lose, format, images, seed, device, trust)
        return
    if knobs:
        raise InputError("--set belongs to another --method: relevance-filter has its own options")
    if false_alarms is not None:
        raise InputError("--false-alarms belongs to --method suspicious-groups")
    if label and labels is None:
        raise InputError("--label needs --labels FILE, where the answers are kept")
    if page and not label:
        raise InputError("--page says where --label asks: give --label too")
    rule = FilterRule(threshold, lose, labels, auto, trusted, label_pairs)
    ask: Ask | None = None
    if page:
        check_pages("filter --page")
        ask = partial(ask_on_page, title=f"Labels for {data}", port=port)
    elif label:
        check_terminal()
        ask = partial(ask_for_labels, console=console)
    where = find_device(device)
    judge = load_encoder(encoder, trust=trust).to(where)
    if victim is not None and load_encoder(victim, trust=trust).digest() == judge.digest():
        raise InputError(
            f"--encoder {encoder} is the model to be trained: what deceives it would deceive the filter, "
            "choose another judge"
        )
    with monitor() as progress:
        done = filter_set(
            data,
            judge,
            out,
            rule,
            format=format,
            images=images,
            seed=seed,
            ask=ask,
            progress=progress.progress,
        )
    kept = done.facts["pairs"] - done.facts["dropped_pairs"]
    lines = [
        f"{out}: kept {kept:,} of {done.facts['pairs']:,} training pairs{_left_out(done.facts, out)}, "
        f"dropped those farther apart than {done.cut.value:.4f}; verdicts in {out / 'verdicts.jsonl'}",
        *_cost(done.cut),
        *_known(done.facts),
        *done.notes,
        f"look at the most distant pairs: {out / REPORT_FOLDER / 'suspicious.html'}",
    ]
    for line in lines:
        say(line)


def _scan_goals(
    data: str,
    encoder: DualEncoder,
    out: Path,
    false_alarms: float,
    lose: float | None,
    format: str | None,
    images: Literal["link", "copy", "none"],
    seed: int,
) -> None:
    from mmpoison.base.untrusted import read_json
    from mmpoison.defenses.filters.suspicious_groups._defense import SuspiciousGroups
    from mmpoison.runs.filter_set import REPORT_FOLDER
    from mmpoison.runs.goal_scan import GOALS_FILE, scan_goals

    defense = SuspiciousGroups(false_alarms, lose)
    with monitor() as progress:
        result = scan_goals(
            data,
            encoder,
            out,
            defense,
            format=format,
            images=images,
            seed=seed,
            progress=progress.progress,
        )
    facts = read_json(out / REPORT_FOLDER / "filter.json")
    lines = [str(goal) for goal in result.goals] or ["no goal suspected"]
    if not result.goals and result.unproven:
        lines.append(f"look at the strongest of what may be chance: {result.unproven[0]}")
    lines.append(
        f"{out}: kept {len(result.kept):,} of {len(result.keep):,} training pairs{_left_out(facts, out)}; "
        f"the evidence is in {out / GOALS_FILE}"
    )
    for line in lines:
        say(line)


def _filter_whole(
    data: str,
    encoder: str,
    out: Path,
    method: str,
    knobs: list[str] | None,
    lose: float | None,
    format: str | None,
    images: Literal["link", "copy", "none"],
    seed: int,
    device: str,
    trust: bool,
) -> None:
    from mmpoison.base.devices import find_device
    from mmpoison.base.untrusted import read_json
    from mmpoison.defenses.catalogue import build_filter
    from mmpoison.models.loading import load_encoder
    from mmpoison.runs.filter_set import REPORT_FOLDER
    from mmpoison.runs.goal_scan import filter_whole
    from mmpoison.runs.recipe import parse_changes

    options = parse_changes(knobs or [])
    if lose is not None:
        options["clean_loss"] = lose
    defense = build_filter(method, options)
    judge = load_encoder(encoder, trust=trust).to(find_device(device))
    with monitor() as progress:
        result = filter_whole(
            data,
            judge,
            out,
            defense,
            format=format,
            images=images,
            seed=seed,
            progress=progress.progress,
        )
    facts = read_json(out / REPORT_FOLDER / "filter.json")
    say(
        f"{out}: kept {len(result.kept):,} of {len(result.keep):,} training pairs{_left_out(facts, out)}; "
        f"verdicts in {out / 'verdicts.jsonl'}"
    )
    for line in _known(facts):
        say(line)


def _left_out(facts: Mapping[str, Any], out: Path) -> str:
    """How many more pairs there were, whose images cannot be read; says on standard error where these are named."""
    from mmpoison.defenses.filters.unreadable import UNREADABLE_FILE

    if "unreadable_images" not in facts:
        return ""
    bad, images, pairs = (
        facts[name] for name in ("unreadable_images", "images", "unreadable_pairs")
    )
    counted = f"{bad:,} of {count_of(images, 'image')} cannot be read"
    stderr(f"mmpoison: warning: {counted}: left out, listed in {out / UNREADABLE_FILE}")
    return f" ({pairs:,} more left out: {counted})"


def _cost(cut: Threshold) -> list[str]:
    lines = []
    if cut.note:
        lines.append(cut.note)
    if cut.interval is not None:
        low, high = cut.interval
        lines.append(f"threshold {cut.value:.4f}, 95 % confidence {low:.4f} to {high:.4f}")
    if cut.loss is not None:
        line = f"expected to drop {percent(cut.loss)} of the clean pairs"
        if cut.loss_interval is not None:
            line += " ({} to {})".format(*map(percent, cut.loss_interval))
        lines.append(line)
    return lines


def _known(facts: object) -> list[str]:
    assert isinstance(facts, dict)
    if "poisoned_total" not in facts:
        return []
    line = (
        f"by the manifest: {facts['poisoned_caught']} of {facts['poisoned_total']} poisoned pairs dropped, "
        f"{facts['clean_dropped']} clean ones lost"
    )
    if "auroc" in facts:
        line += f", AUROC {facts['auroc']:.3f}, average precision {facts['average_precision']:.3f}"
    return [line]
