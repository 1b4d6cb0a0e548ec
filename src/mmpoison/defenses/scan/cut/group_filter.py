"""Pre-training defence: drops groups of pairs that put captions of one kind on images of another kind."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mmpoison.base.phrasing import count_of
from mmpoison.defenses.catalogue import DEFENSES, DefenseKind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.scan.groups.levels import LIKELY
from mmpoison.defenses.scan.groups.passes import find_groups
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import DISTANCE

ALIGNED = 0.9
"""Fewest AUROC of true against shuffled pairs at which a distance is informative for a single pair."""

FEWEST_PAIRS = 40
"""Minimum number of pairs for a group search."""


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find suspected targets of poisoning in a data set, and drop their pairs.

    A distance filter finds single odd pairs, which are common in clean data. Poison comes in groups: captions on one
    topic, on images of one kind, that captions of other images do not explain. Two views of the data search for such
    groups, with regressions between captions and images that are fitted on other images. One view compares each caption
    with its image and with the image's other captions. The other compares all captions of an image with the image,
    because the captions of an attacker's own image confirm each other. Conflicting items that are alike on both sides
    grow into a group. A pair's score is its conflict rank in the better of the two views; the score is higher near a
    group, and higher still inside it. If captions are mostly nearer to their own image than to others (AUROC 0.9), the
    score is the distance between caption and image.

    The method needs no training, labels, manifest or trusted pairs, and no aligned encoder. Goals between similar kinds
    (two kinds of houses) look like mistakes in clean data and are rarely found.

    A cut by `false_alarms` (default 0.01) drops the pairs of groups that at most this share of clean data sets contain.
    Any other cut also drops the pairs with the largest scores, which catches less rare groups. `clean_loss` is a share
    of all pairs, including those of the groups; without poison it costs that share.

    Args:
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`).
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
        """Find groups, and return each pair's conflict score, or its distance if embeddings are aligned.

        Any encoder that distinguishes topics works.
        """
        if len(read.sample) < FEWEST_PAIRS:
            usable = count_of(len(read.sample), "usable pair")
            few = f"too few pairs to look for groups ({usable}): give at least {FEWEST_PAIRS}"
            shards = read.runner.shards
            return PairScores(lambda n: np.zeros(shards[n].rows), groups=(), notes=(few,))
        found = find_groups(read)
        if read.judge is not None and read.judge.value >= ALIGNED:
            return PairScores(read.distance, found.groups, found.model, name=DISTANCE)
        return PairScores(found.scores, found.groups, found.model)
