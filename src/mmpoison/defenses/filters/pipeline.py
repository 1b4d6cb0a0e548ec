"""Filters a set of pairs: reads any source, scores by a method, cuts, and writes verdicts with reasons.

The command line, recipes and Python all come through `filter_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpoison.base.files import refuse_occupied, write_json
from mmpoison.datasets.catalogue import NamedData
from mmpoison.defenses.catalogue import PairFilter, build_filter
from mmpoison.defenses.filter_result import FilterResult
from mmpoison.defenses.filters.decide import (
    check_judge,
    decide,
    false_alarms,
    judge_auroc,
    mismatched_distances,
    needs_trusted,
)
from mmpoison.defenses.filters.distance_scan import (
    PairScan,
    images_at_once,
    sample_of,
    scan_pairs,
)
from mmpoison.defenses.filters.filtered_folder import (
    FACTS_FILE,
    GOALS_FILE,
    REPORT_FOLDER,
    data_pointer,
    save_filtered,
)
from mmpoison.defenses.filters.pair_labels import (
    ShownPair,
    labelled_places,
    pairs_to_label,
    read_labels,
    shown_pairs,
)
from mmpoison.defenses.filters.pair_pieces import PairPieces, pairs_without
from mmpoison.defenses.filters.thresholds import check_labelled
from mmpoison.defenses.unreadable import AllUnreadable, Unreadable, absent, short_reasons
from mmpoison.errors import InputError
from mmpoison.evaluation.lists import thumbnail_address
from mmpoison.images.decode import BrokenImage
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor, prepare_pixels
from mmpoison.pairs.folder import ImagePolicy
from mmpoison.pairs.table import PairDataset
from mmpoison.reporting.filter_page import (
    write_curve_figure,
    write_distance_figure,
    write_filter_page,
)

SHOWN = 48
UNPROVEN = 5

Trusted = Literal["val", "none"]
Ask = Callable[[Sequence[ShownPair], Path], None]


def filter_pairs(
    source: str | Path | PairDataset | NamedData,
    judge: DualEncoder,
    method: str | PairFilter = "relevance-filter",
    *,
    out: str | Path | None = None,
    trusted: Trusted = "val",
    force: bool = False,
    inputs: PairInputs | None = None,
    format: str | None = None,
    options: Mapping[str, Any] | None = None,
    images: ImagePolicy = "link",
    seed: int = 0,
    ask: Ask | None = None,
    label_pairs: int = 120,
    progress: ProgressFor | None = None,
    **parameters: Any,
) -> FilterResult:
    """Judge the training pairs of a set, and drop the suspicious ones.

    A method that streams reads the set in pieces; the scores of a piece are cached, so that a filter that was killed
    resumes, and another threshold needs no second pass over the images. Other methods read the whole set into memory.

    An image that cannot be read is left out with its pairs, and the others are judged. Images of other splits are not
    read, but for those of `val` that `clean_loss` is measured on; where files of images are written, they are left out
    too if they have none.

    Args:
        source: A path of any format, the name of a data set, a set in memory, or `NamedData`, which has format and
            options itself.
        judge: The encoder; another one than the model that will be trained.
        method: Name of a pre-training defence, or one that is built already.
        out: New folder, or None to write nothing: `captions.jsonl`, images, `verdicts.jsonl`, `unreadable.jsonl` where
            there are any, `suspected-goals.json` by a method that finds goals, and in `filter-report/` the threshold
            with its figures and a page of the most suspicious pairs.
        trusted: What `clean_loss` is measured on: the clean split `val` where there is one, or `none` but the judged
            pairs.
        force: Use a judge that cannot distinguish true from shuffled pairs of the set; otherwise a method that compares
            captions with images refuses it.
        inputs: Prepared inputs for the judge, holding a set in memory; by default they are prepared here.
        format: Registered name of the format, where it cannot be recognised.
        options: Options of the format.
        images: As in `save_pairs`.
        seed: Of what is random in a method, and of which pairs are chosen for labelling.
        ask: Shows pairs to a person and writes the answers into the file of labels.
        label_pairs: How many pairs it shows.
        progress: Gives a progress callback for a named step.
        **parameters: Of the method and of the cut (`mmpoison.defenses.cut.CutOptions`), where `method` is a name.

    Raises:
        InputError: If the set or a label cannot be read, the method cannot cut so, no image of a needed split can be
            read, nothing would be left, or `out` holds something.
        ResultError: If the judge is refused; nothing is written then.

    Example:
        ```python
        result = filter_pairs("my-pairs", load_encoder("judge"), clean_loss=0.02, out="kept")
        print(result.cut, result.facts())
        ```
    """
    if not isinstance(method, str) and parameters:
        raise TypeError(f"{min(parameters)}: parameters belong to the name of a method")
    chosen = build_filter(method, parameters) if isinstance(method, str) else method
    streamed = chosen.streams and inputs is None
    target = None if out is None else Path(out)
    if target is not None:
        refuse_occupied(target)
    labels = chosen.cut.labels
    if labels is not None and ask is None:
        read_labels(labels)  # before the data are looked for
    pieces = PairPieces(
        source,
        images_at_once=images_at_once(judge.image_size),
        format=format,
        options=options,
        whole=not streamed,
        own_columns=target is not None,
    )
    if labels is not None and ask is None:
        # labels that cannot be used are refused before everything is judged
        check_labelled(labelled_places(pieces, "train", read_labels(labels), labels)[1])
    if not streamed and (inputs is None or target is not None):
        for _ in pieces:  # notes the states of all files, so that a change from now on is refused
            pass

    def scan(split: str) -> PairScan:
        if streamed:
            return scan_pairs(pieces, judge, chosen, split=split, progress=progress)
        return _scan_whole(pieces, judge, chosen, split, inputs, seed, progress)

    judged = scan("train")
    pieces.leave_out(judged.unreadable.reasons)
    unreadable = judged.unreadable
    tested = judge_auroc(*judged.sample) if chosen.needs_aligned_judge else None
    if not force:
        check_judge(tested, chosen, judge.name)
    if ask is not None and labels is not None:
        places = pairs_to_label(judged.scores, label_pairs, seed=seed)
        ask(shown_pairs(pieces, "train", places, judged.scores), labels)
    known = _trusted(pieces, scan) if trusted == "val" and needs_trusted(chosen) else None
    if known is not None:
        pieces.leave_out(known.unreadable.reasons)
        unreadable = unreadable.plus(known.unreadable)
    if target is not None and images != "none":
        gone = absent(pieces.absent, unreadable)
        pieces.leave_out(gone.reasons)
        unreadable = unreadable.plus(gone)
    result = decide(
        chosen,
        judged.found,
        judge.name,
        poisoned=judged.poisoned,
        mismatched=mismatched_distances(*judged.sample) if judged.found.distances else None,
        judge=tested,
        trusted=None if known is None else known.scores,
        trusted_images=None if known is None else known.image,
        labelled=None
        if labels is None
        else labelled_places(pieces, "train", read_labels(labels), labels),
    )
    kept = None
    if isinstance(source, PairDataset):
        stays = pairs_without(source, pieces.left_out)
        stays[np.flatnonzero(stays & source.in_split("train"))] = result.keep
        kept = source.where(stays)
    result = replace(
        result, unreadable=unreadable, kept=kept, out=target, new_pairs=judged.new_pairs
    )
    if target is None:
        return result
    name = source.root.name if isinstance(source, PairDataset) else str(source)
    pointer = {} if isinstance(source, PairDataset) else data_pointer(name, target)
    notes = _write(pieces, chosen, result, name, pointer, streamed, images)
    return replace(result, notes=[*result.notes, *notes])


def _scan_whole(
    pieces: PairPieces,
    judge: DualEncoder,
    method: PairFilter,
    split: str,
    inputs: PairInputs | None,
    seed: int,
    progress: ProgressFor | None,
) -> PairScan:
    """Score the pairs of a split in memory, by prepared inputs or by those that are prepared here."""
    assert pieces.whole is not None
    whole = pieces.whole
    mask = whole.in_split(split)
    pairs, poisoned = whole.pairs.where(mask), whole.poisoned[mask]
    if not len(pairs):
        raise InputError(f"split {split!r} has no pair to judge")
    reasons: Mapping[str, str] = {}
    if inputs is None:
        inputs = prepare_pixels(judge, pairs, broken="drop", progress=progress)
        reasons = short_reasons(pairs.root, inputs.pixels.broken)
    readable = pairs_without(pairs, reasons)
    unreadable = Unreadable(
        len(pairs.used_images()),
        reasons,
        int((~readable).sum()),
        int((poisoned & ~readable).sum()) if pieces.manifest is not None else None,
    )
    if not readable.any():
        raise unreadable.none_left(f"split {split!r}")
    pairs = pairs.where(readable)
    found = method.score(pairs, judge, inputs, seed=seed, progress=progress)
    return PairScan(
        replace(found, embeddings=None),
        pairs.image,
        sample_of(found, pairs.image, pieces.images_at_once),
        poisoned[readable] if pieces.manifest is not None else None,
        len(pairs),
        unreadable,
    )


def _trusted(pieces: PairPieces, scan: Callable[[str], PairScan]) -> PairScan | None:
    """Return the scores of the trusted pairs that `clean_loss` is measured on, or None where there are none."""
    known = [pieces.whole] if pieces.whole is not None else pieces
    if not any(piece.in_split("val").any() for piece in known):
        return None
    try:
        return scan("val")
    except AllUnreadable as error:
        raise InputError(f"{error} (or `--trusted none` measures on the judged pairs)") from None


def _write(
    pieces: PairPieces,
    method: PairFilter,
    result: FilterResult,
    name: str,
    pointer: Mapping[str, str],
    streamed: bool,
    images: ImagePolicy,
) -> list[str]:
    """Write the folder of a result, and return notes for the user."""
    assert result.out is not None
    notes: list[str] = []
    facts = {"data": name, **result.facts()}
    if streamed:  # figures show the densities; a run stores them for its report
        facts.pop("histogram", None)
    cut = {} if method.cut == method.default_cut else {"cut": result.cut.facts()}
    worst = result.most_suspicious[:SHOWN]
    shown = shown_pairs(pieces, "train", worst, result.scores)

    def report(folder: Path) -> None:
        inside = folder / REPORT_FOLDER
        inside.mkdir()
        about = {"score_name": method.score_name, **pointer}
        write_json(inside / FACTS_FILE, {**facts, **about, **cut})
        if result.goals is not None:
            goals = {
                "false_alarms": false_alarms(method),
                "goals": [goal.to_json() for goal in result.goals],
                "not_significant": [goal.to_json() for goal in result.unproven[:UNPROVEN]],
            }
            write_json(folder / GOALS_FILE, goals)
        figures: list[tuple[str, Path]] = []
        try:
            figures = _write_figures(inside, method, result)
        except InputError as error:
            notes.append(f"no figures: {error}")
        write_filter_page(
            inside / "suspicious.html",
            facts=facts,
            cut=result.cut.facts(),
            score_name=method.score_name,
            pairs=[
                {
                    "pair": pair.pair,
                    "caption": pair.caption,
                    "distance": pair.distance,
                    "poisoned": pair.poisoned,
                    "keep": bool(result.keep[place]),
                    "thumbnail": _thumbnail(pair),
                }
                for pair, place in zip(shown, worst, strict=True)
            ],
            figures=figures,
        )

    save_filtered(
        pieces,
        result.keep,
        result.scores,
        facts,
        result.out,
        goals=[goal.rows for goal in result.goals or ()],
        images=images,
        also=report,
    )
    return notes


def _write_figures(
    folder: Path, method: PairFilter, result: FilterResult
) -> list[tuple[str, Path]]:
    scores, bad, value = result.scores, result.poisoned, result.cut.value
    figures = [("Scores", folder / "distances.png")]
    write_distance_figure(
        figures[0][1],
        scores,
        value,
        poisoned=bad,
        mismatched=result.mismatched,
        score_name=method.score_name,
    )
    if bad is not None and bad.any() and not bad.all():
        figures.append(("ROC and precision-recall", folder / "curves.png"))
        write_curve_figure(figures[1][1], scores, bad, value)
    return figures


def _thumbnail(pair: ShownPair) -> str | None:
    try:
        return thumbnail_address(pair.root, pair.image, 160)
    except BrokenImage:
        return None
