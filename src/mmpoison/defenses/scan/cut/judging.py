"""Decides which pairs to drop, by a method and a cut, shard by shard. A set in memory is one shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import ProgressFor, silent
from mmpoison.defenses.catalogue import Threshold
from mmpoison.defenses.scan.cut.labels import labelled_places
from mmpoison.defenses.scan.cut.result import NO_GROUP, FilterResult, ShardVerdict
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter, build_filter
from mmpoison.defenses.scan.cut.thresholds import (
    Values,
    check_labelled,
    label_threshold,
    loss_threshold,
)
from mmpoison.defenses.scan.groups.describe import DescribedGroup, describe_groups
from mmpoison.defenses.scan.groups.passes import Group
from mmpoison.defenses.scan.read.pass_runner import ReadPairs, read_memory
from mmpoison.defenses.scan.read.pieces import PairPieces, Unreadable, pairs_without, short_reasons
from mmpoison.errors import InputError, ResultError
from mmpoison.metrics import cosine_distance
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset
from mmpoison.statistics import Estimate

if TYPE_CHECKING:  # scans of precomputed embeddings do not need torch
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.inputs import PairInputs

# -- Tests a judge on the pairs it judges: are captions closer to their own image than to random images?


Floats = npt.NDArray[np.floating[Any]]

REFUSED_BELOW = 0.7
"""A judge is refused if the whole interval of its AUROC lies below this.

Measured: at AUROC 0.74, a loss of 2% caught 14% of the poison (median of 12 goals, satellite photos).
"""

WEAK_BELOW = 0.9
"""A judge with a smaller AUROC is called weak.

Measured: the same loss caught 21% and 40% at AUROC 0.88 to 0.90, and 33% to 59% at 0.92 to 0.95.
"""


def is_refused(found: Estimate | None) -> bool:
    """Check whether a judge's AUROC is significantly below `REFUSED_BELOW`. None (unknown) is not refused."""
    return found is not None and found.high is not None and found.high < REFUSED_BELOW


def check_judge(found: Estimate | None, method: ScoreFilter, judge: str) -> None:
    """Refuse a judge that cannot distinguish true from shuffled pairs.

    Args:
        found: The judge's AUROC on the pairs.
        method: The method, which compares captions with images.
        judge: Name of the judge.

    Raises:
        ResultError: If its AUROC is below `REFUSED_BELOW`.
    """
    if found is not None and is_refused(found):
        raise ResultError(
            f"judge {judge!r} cannot distinguish true from shuffled pairs: AUROC {auroc_text(found)} on {found.n:,} "
            f"pairs, where 0.5 is guessing and {method.name} needs {REFUSED_BELOW}: choose a model that is aligned on "
            "similar images (`mmpoison models list`), or a method that needs none (`--method suspicious-groups`); "
            "--force (force=True) uses this model anyway"
        )


def judge_note(found: Estimate) -> str:
    """Describe how well a judge distinguishes true from shuffled pairs, as one line for the user."""
    line = f"judge: distinguishes true from shuffled pairs in {found.value:.1%} of comparisons"
    if found.low is not None and found.high is not None:
        line += f" (95% confidence {found.low:.1%} to {found.high:.1%})"
    if is_refused(found):
        return f"{line}: 50% is guessing, so its verdicts say nothing about the pairs"
    if found.value < WEAK_BELOW:
        return f"{line}: a weak judge, which misses much of the poison"
    return line


def auroc_text(found: Estimate) -> str:
    """Return an AUROC with its interval.

    >>> auroc_text(Estimate(500, 100, 0.531, 0.5, 0.56))
    '0.53 (95% confidence 0.50 to 0.56)'
    """
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} (95% confidence {found.low:.2f} to {found.high:.2f})"


# -- Distances of captions to other pairs' images: the distribution of mismatched captions.


def mismatched_distances(
    text: Floats, image: Floats, *, count: int = 20_000, seed: int = 0
) -> Floats:
    """Compute distances of captions to randomly drawn images of other pairs.

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`.
        count: Number of draws.
        seed: Of the draw.

    Returns:
        Shape `(count,)`; empty if there are fewer than two images.
    """
    if not len(text):
        return np.empty(0, dtype=np.float32)
    rng = np.random.default_rng(seed)
    one = rng.integers(0, len(text), count)
    other = rng.integers(0, len(text), count)
    # the same image may be in several pairs
    differ = (image[one] != image[other]).any(axis=1)
    return np.asarray(cosine_distance(text[one[differ]], image[other[differ]]), dtype=np.float32)


# -- Scores, and the verdicts that a cut derives from them.


Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """Scores and groups, and the pairs to drop: those in likely groups or with a score above the cut.

    Attributes:
        read: The pairs.
        scores: Of the method.
        cut: The threshold.
        level: A group is called poisoning if at most this share of ordinary clean sets have a group as strong; None for
            methods without groups.
        labelled: Row numbers (through all shards) with a human verdict, and which of them to drop; these verdicts are
            final.
    """

    read: ReadPairs
    scores: PairScores
    cut: Threshold
    level: float | None = None
    labelled: tuple[Places, BoolArray] | None = None

    @property
    def likely(self) -> tuple[Group, ...] | None:
        """The groups called poisoning; None for methods without groups."""
        return None if self.scores.groups is None else _likely(self.scores.groups, self.level)

    def verdict(self, number: int) -> ShardVerdict:
        """Return the verdict on a shard's pairs, without reasons."""
        score = self.scores.of(number)
        group = _group_of(self.scores.groups or (), number, len(score))
        drop: BoolArray = score > self.cut.value
        drop |= (group >= 0) & (group < len(self.likely or ()))
        if self.labelled is not None:
            rows, bad = self.labelled
            start = self.read.starts[number]
            mine = (rows >= start) & (rows < start + len(score))
            drop[rows[mine] - start] = bad[mine]
        drop |= np.isnan(score)
        return ShardVerdict(score, drop, group)

    def verdicts(self) -> Iterator[tuple[int, ShardVerdict]]:
        """Yield the verdicts on all shards, in order."""
        for number in sorted(self.read.runner.shards):
            yield number, self.verdict(number)

    def joined(self) -> tuple[Values, BoolArray]:
        """Return the scores of all pairs (0 if a pair has none), and a mask of the pairs to keep; shapes `(N,)`."""
        verdicts = [verdict for _, verdict in self.verdicts()]
        return (
            np.concatenate([np.nan_to_num(one.score) for one in verdicts]),
            np.concatenate([~one.drop for one in verdicts]),
        )

    def described(self) -> tuple[DescribedGroup, ...] | None:
        """Describe the groups in words; None for methods without groups."""
        groups, model = self.scores.groups, self.scores.model
        space = self.scores.space if model is None else model.image
        if not groups or space is None:
            return None if groups is None else ()
        return describe_groups(self.read, groups, space)

    @cached_property
    def mismatched(self) -> Floats:
        """Distances of captions to random other images, in the compared embeddings."""
        return mismatched_distances(*self.read.units)


def _likely(groups: tuple[Group, ...], level: float | None) -> tuple[Group, ...]:
    return tuple(one for one in groups if level is not None and one.false_alarms <= level)


def _group_of(groups: tuple[Group, ...], number: int, rows: int) -> npt.NDArray[np.intp]:
    found = np.full(rows, NO_GROUP)
    for place, group in reversed(list(enumerate(groups))):
        if number in group.rows:
            found[group.rows[number]] = place
    return found


def needs_trusted(method: ScoreFilter) -> bool:
    """Check whether the cut is measured on trusted clean pairs, if there are any."""
    return method.uses_trusted and method.cut.clean_loss is not None and method.cut.labels is None


def false_alarms(method: ScoreFilter) -> float | None:
    """Return the share of clean data sets that may contain a dropped group; None for methods without groups."""
    default = method.default_cut.false_alarms if method.default_cut is not None else None
    return default if method.cut.false_alarms is None else method.cut.false_alarms


@dataclass(frozen=True)
class Given:
    """Further inputs of a cut.

    Attributes:
        trusted: Scores of known clean pairs.
        trusted_images: Image of each trusted pair: captions of one image are not independent.
        labels: Rows with a human verdict, and which of them to drop.
        force: Use the judge even if it cannot distinguish true from shuffled pairs.
    """

    trusted: Values | None = None
    trusted_images: IntArray | None = None
    labels: tuple[Places, BoolArray] | None = None
    force: bool = False


class NothingLeft(InputError):
    """Raised if a cut drops every pair, or no pair can be judged."""


def judge_pairs(
    read: ReadPairs,
    method: ScoreFilter,
    encoder: str,
    given: Given,
) -> Judgement:
    """Score pairs and apply a cut, for the command line, recipes, the matrix and Python alike.

    Every cut drops the pairs of likely groups, and decides which others to drop.

    Args:
        read: The pairs.
        method: The method, including its cut.
        encoder: Name of the judge.
        given: What the cut uses besides.

    Raises:
        InputError: If the method cannot score these pairs, or every pair would be dropped.
        ResultError: If the method compares captions with images, and the judge cannot distinguish true from shuffled
            pairs.
    """
    judge = read.judge if method.needs_aligned_judge else None
    if not given.force:
        check_judge(judge, method, encoder)
    if given.labels is not None and not method.finds_groups:
        check_labelled(given.labels[1])
    scores = method.score(read)
    found = Judgement(read, scores, Threshold(0.0, "given"), false_alarms(method))
    cut = _threshold(found, method, given)
    found = Judgement(read, scores, cut, found.level, given.labels)
    if all(verdict.drop.all() for _, verdict in found.verdicts()):
        every = _usable(found)
        raise NothingLeft(
            f"threshold {cut.value:g} drops every pair: scores run from {every.min():.3f} to {every.max():.3f}"
            if len(every)
            else "no pair can be judged: every embedding is zero or not finite"
        )
    return found


def _all_scores(found: Judgement) -> Values:
    return np.concatenate([found.scores.of(n) for n in sorted(found.read.runner.shards)])


def _usable(found: Judgement) -> Values:
    every = _all_scores(found)
    return every[~np.isnan(every)]


def _threshold(
    found: Judgement,
    method: ScoreFilter,
    given: Given,
) -> Threshold:
    cut, groups = method.cut, found.scores.groups
    if cut.threshold is not None:
        return Threshold(cut.threshold, "given")
    if given.labels is not None and groups is None:
        rows, bad = given.labels
        known = _all_scores(found)[rows]
        usable = ~np.isnan(known)
        return label_threshold(_usable(found), known[usable], bad[usable], cut.clean_loss)
    if cut.clean_loss is not None and groups is not None:
        return _with_groups(found, cut.clean_loss)
    if cut.clean_loss is not None:
        return loss_threshold(
            _usable(found),
            cut.clean_loss,
            trusted=given.trusted,
            groups=given.trusted_images,
        )
    shards = (found.scores.of(number) for number in found.read.runner.shards)
    return Threshold(
        max(float(np.max(one[~np.isnan(one)], initial=0.0)) for one in shards), "false-alarms"
    )


def _with_groups(found: Judgement, share: float) -> Threshold:
    """Drop a share of all pairs: first those in likely groups, then those with the largest scores."""
    likely = len(found.likely or ())
    rest, inside = [], 0
    for number in sorted(found.read.runner.shards):
        score = found.scores.of(number)
        group = _group_of(found.scores.groups or (), number, len(score))
        goes = (group >= 0) & (group < likely)
        inside += int(goes.sum())
        rest.append(score[~goes & ~np.isnan(score)])
    others = np.concatenate(rest)
    more = min(max(0, round(share * found.read.rows) - inside), len(others) - 1)
    value = float(np.partition(others, -more - 1)[-more - 1]) if len(others) else 0.0
    note = f"drops the pairs of suspected goals, and those with the largest scores, up to {share:.2%} of all pairs"
    return Threshold(value, "loss", note=note)


# -- Judges a data set in memory, for recipes, the matrix and Python.


Trusted = Literal["val", "none"]


def result_of(
    found: Judgement,
    method: ScoreFilter,
    encoder: str,
) -> FilterResult:
    """Convert a judgement in memory to a result, with groups in words.

    Args:
        found: What was found.
        method: The method that scored the pairs.
        encoder: Name of the judge.
    """
    scores, keep = found.joined()
    judge = found.read.judge if method.needs_aligned_judge else None
    return FilterResult(
        keep,
        scores,
        found.cut,
        method.name,
        encoder,
        groups=found.described(),
        likely=len(found.likely or ()),
        judge=judge,
        notes=found.scores.notes,
        method_facts=found.scores.facts,
    )


def filter_pairs(
    pairs: PairDataset,
    judge: DualEncoder,
    method: str | ScoreFilter = "relevance-filter",
    *,
    trusted: Trusted = "val",
    force: bool = False,
    inputs: PairInputs | None = None,
    seed: int = 0,
    progress: ProgressFor | None = None,
    **parameters: Any,
) -> FilterResult:
    """Judge the training pairs of a data set in memory, and drop suspicious ones; `mmpoison.scan` reads any source.

    An unreadable image is left out with its pairs; the others are judged.

    Args:
        pairs: The set.
        judge: The encoder; not the model that will be trained.
        method: Name of a pre-training defence, or an already built one.
        trusted: Pairs on which `clean_loss` is measured: the clean split `val` if there is one; `none` uses the judged
            pairs.
        force: Use a judge that cannot distinguish true from shuffled pairs of the set; otherwise a method that compares
            captions with images refuses it.
        inputs: Inputs of the set, preprocessed for the judge; by default they are preprocessed here.
        seed: Seed for the method's random choices.
        progress: Returns a progress callback for a named step.
        **parameters: Parameters of the method and of the cut (`mmpoison.defenses.catalogue.CutOptions`), if `method`
            is a name.

    Raises:
        InputError: If the set or a label cannot be read, the method does not support the cut, no image of a needed
            split is readable, or every pair would be dropped.
        ResultError: If the judge is refused.

    Example:
        ```python
        result = filter_pairs(poisoned, load_encoder("judge"), clean_loss=0.02)
        print(result.cut, result.facts())
        ```
    """
    if not isinstance(method, str) and parameters:
        raise TypeError(
            f"{min(parameters)}: parameters can only be given with the name of a method"
        )
    chosen = build_filter(method, parameters) if isinstance(method, str) else method
    pieces = PairPieces(pairs)
    whole = pieces.whole
    assert whole is not None
    judged = whole.in_split("train")
    known = whole.in_split("val") if trusted == "val" and needs_trusted(chosen) else ~judged & False
    if not judged.any():
        raise InputError("split 'train' has no pair to judge")
    given = Given(force=force)
    if (labels := chosen.cut.labels) is not None:
        # refuse unusable labels before judging everything
        places, bad = labelled_places([whole.pair_ids(judged)], labels)
    reasons: Mapping[str, str] = {}
    if inputs is None:
        from mmpoison.models.inputs import prepare_pixels

        inputs = prepare_pixels(
            judge, pairs.where(judged | known), broken="drop", progress=progress
        )
        reasons = short_reasons(pairs.root, inputs.pixels.broken)
    readable = pairs_without(pairs, reasons)
    unreadable = Unreadable(
        len(pairs.where(judged).used_images()),
        reasons,
        int((judged & ~readable).sum()),
        int((judged & whole.poisoned & ~readable).sum()) if pieces.manifest is not None else None,
    )
    for mask, split in ((judged, "train"), (known, "val")):
        if mask.any() and not (mask & readable).any():
            raise unreadable.none_left(f"split {split!r}")
    if labels is not None:
        usable = readable[judged]
        left = usable[places]
        given = replace(given, labels=((np.cumsum(usable) - 1)[places[left]], bad[left]))
    from mmpoison.defenses.scan.read.vectors import memory_shard

    def read(mask: BoolArray) -> ReadPairs:
        some = whole.pairs.where(mask & readable)
        shard = memory_shard(judge, inputs, some, chosen.joint, progress)
        return read_memory(shard, seed, progress or silent)

    if known.any():
        scores = chosen.score(read(known)).of(0)
        images = whole.pairs.image[known & readable]
        given = replace(given, trusted=scores, trusted_images=images)
    found = judge_pairs(read(judged), chosen, judge.name, given)
    result = result_of(found, chosen, judge.name)
    stays = readable.copy()
    stays[np.flatnonzero(judged & readable)] = result.keep
    poisoned = whole.poisoned[judged & readable] if pieces.manifest is not None else None
    return replace(result, poisoned=poisoned, kept=pairs.where(stays), unreadable=unreadable)
