"""The pre-training filter on a set of any size: scan, choose where to cut, write what is left and show why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpoison.base.files import refuse_occupied, write_json
from mmpoison.defenses.filters.distance_scan import PairScan, images_at_once, scan_pairs
from mmpoison.defenses.filters.filtered_folder import write_filtered
from mmpoison.defenses.filters.pair_labels import (
    ShownPair,
    labelled_places,
    pairs_to_label,
    read_labels,
    shown_pairs,
)
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.filters.relevance_filter import verdict_facts, verdicts
from mmpoison.defenses.filters.thresholds import (
    Threshold,
    automatic_threshold,
    check_loss,
    given_threshold,
    label_threshold,
    loss_threshold,
)
from mmpoison.defenses.filters.unreadable import AllUnreadable, Unreadable, absent
from mmpoison.errors import InputError
from mmpoison.evaluation.lists import thumbnail_address
from mmpoison.images.decode import BrokenImage
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import ProgressFor
from mmpoison.pairs.folder import ImagePolicy
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.reporting.filter_page import (
    write_curve_figure,
    write_distance_figure,
    write_filter_page,
)

REPORT_FOLDER = "filter-report"
SHOWN = 48

Ask = Callable[[Sequence[ShownPair], Path], None]


@dataclass(frozen=True)
class FilterRule:
    """Where to cut.

    Attributes:
        threshold: A cosine distance.
        lose: A share of the clean pairs.
        labels: A file of labels; with `lose`, no more than that share is lost.
        automatic: By the distances alone.
        trusted: What `lose` is measured on: the clean split `val` where there is one, or `none` but the judged pairs.
        label_pairs: How many pairs are asked for.

    Raises:
        InputError: If not exactly one rule is given.
    """

    threshold: float | None = None
    lose: float | None = None
    labels: Path | None = None
    automatic: bool = False
    trusted: Literal["val", "none"] = "val"
    label_pairs: int = 120

    def __post_init__(self) -> None:
        given = [self.threshold is not None, self.labels is not None, self.automatic]
        if sum(given) + (self.lose is not None and self.labels is None) != 1:
            raise InputError(
                "exactly one of --threshold, --lose, --labels and --auto says where to cut "
                "(--lose may stand beside --labels)"
            )
        if self.threshold is not None:
            given_threshold(self.threshold)
        if self.lose is not None:
            check_loss(self.lose)


@dataclass(frozen=True)
class FilteredSet:
    """What a filter did with a set.

    Attributes:
        out: The new pairs folder.
        cut: The threshold and what it costs.
        facts: Counts.
        new_pairs: Pairs that were judged now; the others were known from an earlier scan.
        notes: What a user should know besides.
        unreadable: Images that could not be read; they are left out, and named in `unreadable.jsonl`.
    """

    out: Path
    cut: Threshold
    facts: Mapping[str, Any]
    new_pairs: int
    notes: tuple[str, ...] = ()
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0))


def filter_set(
    source: str | Path | PairDataset,
    judge: DualEncoder,
    out: str | Path,
    rule: FilterRule,
    *,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    images: ImagePolicy = "link",
    seed: int = 0,
    ask: Ask | None = None,
    progress: ProgressFor | None = None,
) -> FilteredSet:
    """Judge the training pairs of a set, drop the distant ones, and write the others as a pairs folder.

    The set is read in pieces, and the distances of a piece are kept in the cache folder: a filter that was killed goes
    on where it was, and another threshold needs no second look at the images.

    An image that cannot be read is left out with its pairs, named in `unreadable.jsonl`, and the others are judged.
    Images of other splits are not read, but for those of `val` that `lose` is measured on; where files of images are
    written, they are left out too if they have none.

    Args:
        source: A path of any format, the name of a data set, or a set in memory.
        judge: The encoder; another one than the model that will be trained.
        out: New folder: `captions.jsonl`, images, `verdicts.jsonl`, and in `filter-report/` the threshold with its
            figures and a page of the most distant pairs.
        rule: Where to cut.
        format: Registered name of the format, where it cannot be recognised.
        options: Options of the format.
        images: As in `save_pairs`.
        seed: Which pairs are chosen for labelling.
        ask: Shows pairs to somebody and writes the answers into the file of labels.
        progress: Gives a progress callback for a named step.

    Raises:
        InputError: If the set or a label cannot be read, no image of a needed split can be read, nothing would be left,
            or `out` holds something.
    """
    target = Path(out)
    refuse_occupied(target)
    pieces = PairPieces(
        source,
        images_at_once=images_at_once(judge.image_size),
        format=format,
        options=options,
    )
    scan = scan_pairs(pieces, judge, progress=progress)
    pieces.leave_out(scan.unreadable.reasons)
    if ask is not None:
        assert rule.labels is not None
        places = pairs_to_label(scan.distances, rule.label_pairs, seed=seed)
        ask(shown_pairs(pieces, "train", places, scan.distances), rule.labels)
    trusted = _trusted(rule, pieces, judge, progress)
    unreadable = scan.unreadable
    if trusted is not None:
        pieces.leave_out(trusted.unreadable.reasons)
        unreadable = unreadable.plus(trusted.unreadable)
    if images != "none":
        gone = absent(pieces.absent, unreadable)
        pieces.leave_out(gone.reasons)
        unreadable = unreadable.plus(gone)
    cut = _cut(rule, pieces, scan, trusted)
    keep = verdicts(scan.distances, cut.value)
    facts = {
        "data": source.root.name if isinstance(source, PairDataset) else str(source),
        "encoder": judge.name,
        **verdict_facts(keep, scan.distances, cut.value, scan.poisoned),
        **unreadable.facts(),
    }
    notes: list[str] = []
    worst = np.argsort(-scan.distances, kind="stable")[:SHOWN]
    shown = [
        (pair, bool(keep[place]))
        for pair, place in zip(
            shown_pairs(pieces, "train", worst, scan.distances), worst, strict=True
        )
    ]
    write_filtered(
        pieces,
        "train",
        keep,
        scan.distances,
        facts,
        target,
        images=images,
        also=lambda folder: notes.extend(
            _write_report(folder / REPORT_FOLDER, scan, cut, facts, shown)
        ),
    )
    return FilteredSet(target, cut, facts, scan.new_pairs, tuple(notes), unreadable)


def _trusted(
    rule: FilterRule, pieces: PairPieces, judge: DualEncoder, progress: ProgressFor | None
) -> PairScan | None:
    """Distances of the trusted pairs that `lose` is measured on, or None where the rule needs none."""
    measured = rule.lose is not None and rule.labels is None and rule.trusted == "val"
    if not (measured and _has_split(pieces, "val")):
        return None
    try:
        return scan_pairs(pieces, judge, split="val", progress=progress)
    except AllUnreadable as error:
        raise InputError(f"{error} (or `--trusted none` measures on the judged pairs)") from None


def _cut(
    rule: FilterRule, pieces: PairPieces, scan: PairScan, trusted: PairScan | None
) -> Threshold:
    if rule.threshold is not None:
        return given_threshold(rule.threshold)
    if rule.labels is not None:
        places, bad = labelled_places(pieces, "train", read_labels(rule.labels), rule.labels)
        return label_threshold(scan.distances, scan.distances[places], bad, rule.lose)
    if rule.lose is not None:
        if trusted is not None:
            return loss_threshold(
                scan.distances, rule.lose, trusted=trusted.distances, groups=trusted.image
            )
        return loss_threshold(scan.distances, rule.lose)
    return automatic_threshold(scan.distances, scan.mismatched)


def _has_split(pieces: PairPieces, split: str) -> bool:
    return any(piece.in_split(split).any() for piece in pieces)


def _write_report(
    folder: Path,
    scan: PairScan,
    cut: Threshold,
    facts: Mapping[str, Any],
    shown: Sequence[tuple[ShownPair, bool]],
) -> list[str]:
    folder.mkdir()
    write_json(folder / "filter.json", {**facts, "cut": cut.facts()})
    figures: list[tuple[str, Path]] = []
    notes: list[str] = []
    bad: BoolArray | None = scan.poisoned
    try:
        file = folder / "distances.png"
        write_distance_figure(
            file, scan.distances, cut.value, poisoned=bad, mismatched=scan.mismatched
        )
        figures.append(("Distances", file))
        if bad is not None and bad.any() and not bad.all():
            file = folder / "curves.png"
            write_curve_figure(file, scan.distances, bad, cut.value)
            figures.append(("ROC and precision-recall", file))
    except InputError as error:
        notes.append(f"no figures: {error}")
    write_filter_page(
        folder / "suspicious.html",
        facts=facts,
        cut=cut.facts(),
        pairs=[
            {
                "pair": pair.pair,
                "caption": pair.caption,
                "distance": pair.distance,
                "poisoned": pair.poisoned,
                "keep": keep,
                "thumbnail": _thumbnail(pair),
            }
            for pair, keep in shown
        ],
        figures=figures,
    )
    return notes


def _thumbnail(pair: ShownPair) -> str | None:
    try:
        return thumbnail_address(pair.root, pair.image, 160)
    except BrokenImage:
        return None
