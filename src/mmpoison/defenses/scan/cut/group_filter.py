"""Pre-training defence: drop groups of pairs whose captions of one kind are with images of another kind."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.catalogue import DEFENSES, DefenseKind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.scan.groups.levels import LIKELY
from mmpoison.defenses.scan.groups.passes import SCORE, find_groups, scores_of
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import DISTANCE, Values

ALIGNED = 0.9
"""From this AUROC of true against shuffled pairs on, a distance says something of a single pair."""

FEWEST_PAIRS = 40
"""Among fewer pairs no group is looked for."""


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find which goals a data set is poisoned towards, and drop their pairs.

    A filter by distance finds single odd pairs, and clean data are full of those. Poison comes in groups: captions on
    one topic, on images of one kind, that what is said of other images does not explain. Two views of the data look for
    such groups, by regressions between captions and images that are fitted on other images: one compares each caption
    with its image and with the image's other captions; the other compares all captions of an image with it, for an
    attacker who posts his own images, where his captions vouch for each other. Conflicting
    items that are alike on both sides grow into a group. The score of a pair is its rank by conflict in the better of
    the two views; it is higher where a pair conflicts around a group, and again in the group. Where captions are mostly
    nearer to their own image than to others (AUROC 0.9), the score is the distance of the two.

    Nothing is trained and no label, manifest or trusted pair is needed; the encoder need not be aligned. Goals between
    kinds that resemble each other (two kinds of houses) look like the mistakes of clean data and are hardly found.

    A cut by `false_alarms` (0.01 unless given) drops the pairs of the groups that clean data would show at most so
    often. Any other cut drops the pairs with the largest scores besides, which catches groups that are not that rare;
    `clean_loss` is a share of all pairs, those of the groups counted, and costs that share where there is no poison.

    Args:
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`).

    Raises:
        InputError: If a value is out of range.
    """

    name: ClassVar[str] = "suspicious-groups"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = "finds poisoning goals without labels, and drops their pairs"
    cost: ClassVar[str] = "one embedding pass; also drops clean pairs of the same unusual kind"

    joint = False
    finds_groups = True
    score_name = "evidence against a pair"
    default_cut = Cut(false_alarms=LIKELY)

    def score(self, read: ReadPairs) -> PairScores:
        """Find groups, and return the evidence against each pair; its distance, where embeddings are aligned.

        Any encoder that distinguishes topics will do.
        """
        if len(read.sample) < FEWEST_PAIRS:
            found = count_of(len(read.sample), "usable pair")
            few = f"too few pairs to look for groups ({found}): give at least {FEWEST_PAIRS}"
            shards = read.runner.shards
            return PairScores(lambda n: np.zeros(shards[n].rows), groups=(), notes=(few,))
        groups, model = find_groups(read)
        if read.judge is not None and read.judge.value >= ALIGNED:
            return PairScores(read.distance, groups, model, name=DISTANCE)

        def evidence(number: int) -> Values:
            (score,) = read.runner.part(SCORE, number, "score")
            return scores_of(score, number, groups)

        return PairScores(evidence, groups, model)
