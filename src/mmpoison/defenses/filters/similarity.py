"""Filters by the similarity of image and caption, and the random one that they are measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.filters.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.filters.suspicious_groups.passes import ReadPairs
from mmpoison.embedded.distance import DISTANCE
from mmpoison.errors import InputError
from mmpoison.statistics import TwoGaussians, fit_two_gaussians

# -- Pre-training defence: drop pairs whose image and caption do not match under another encoder.


@DEFENSES.register("relevance-filter")
class RelevanceFilter(ScoreFilter):
    """Drop pairs whose cosine distance is above a threshold (section 6.1, "pre-training defense").

    The encoder should be another one than the victim, so that what deceives the one need not deceive the other. Trusted
    pairs must be of the kind of the judged pairs, and the judge must not have been trained on them: its own training
    pairs lie closer together than any others, and the threshold would drop nearly everything.

    The paper's threshold for CLIP ViT-B/16 is 0.80. Other encoders have other distances, so there is no default.
    """

    name: ClassVar[str] = "relevance-filter"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.1"
    summary: ClassVar[str] = (
        "drops pairs whose image and caption are far apart under another encoder"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "each image and caption is embedded once by the judge; the most distant clean pairs are dropped"
    )
    needs_aligned_judge = True
    uses_trusted = True
    score_name = DISTANCE
    score_range = (0.0, 2.0)

    def score(self, read: ReadPairs) -> PairScores:
        """Return the cosine distance of each pair, in [0, 2]."""
        return PairScores(read.distance)


# -- Pre-training defence: split pairs by two Gaussians that are fitted to the cosines of image and caption.


SAFE = 0.9
"""SafeCLIP calls a pair safe from this posterior probability on."""

SEPARATE = 2.0
"""Two Gaussians are clearly two from this separation on (Ashman, Bird and Zepf, 1994)."""


@DEFENSES.register("gmm-split")
class GmmSplit(ScoreFilter):
    """Keep the pairs that belong to the closer of two Gaussians, fitted to the judge's cosines.

    SafeCLIP splits its training pairs so. The score is the log odds that a pair is of the Gaussian with the smaller
    mean: log(p / (1 - p)), where 1 - p is the posterior probability of the Gaussian with the larger one. Pairs with a
    posterior of 0.9 or more are kept by default, which is a threshold of log(1/9) = -2.197.

    The log odds of two Gaussians of different width are a parabola: far out the wider one always wins, so that the most
    distant pairs would be called safe. Between the two means they fall with the cosine; beyond each mean they go on
    along the tangent. So the order of the scores is that of the distances, as in `relevance-filter`; only the threshold
    comes from the fit.

    Two Gaussians fit any data better than one. `mixture` in the report says how far apart they are: `separation` is
    the difference of the means in root mean squares of the two deviations. Below 2 they are hardly two kinds of pairs.

    Args:
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`); at a posterior of 0.9 unless given.

    Raises:
        InputError: If a value is out of range, or scikit-learn is not installed.
    """

    name: ClassVar[str] = "gmm-split"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "the split of SafeCLIP (Yang et al., ICML 2024)"
    summary: ClassVar[str] = (
        "fits two Gaussians to the cosines of image and caption, and keeps the pairs of the closer one"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "each image and caption is embedded once by the judge; drops many clean pairs where there is little poison"
    )
    needs_aligned_judge = True
    score_name = "log odds that image and caption do not match"
    default_cut = Cut(threshold=math.log((1 - SAFE) / SAFE))

    def score(self, read: ReadPairs) -> PairScores:
        """Return the log odds that each pair is of the Gaussian with the smaller mean."""
        numbers = sorted(read.runner.shards)
        cosines = np.concatenate([1 - read.distance(n).astype(np.float64) for n in numbers])
        usable = cosines[~np.isnan(cosines)]
        if not len(usable) or np.ptp(usable) == 0:
            raise InputError(
                f"the {len(usable):,} pairs are all equally far apart: two Gaussians need different cosines"
            )
        two = fit_two_gaussians(usable, seed=read.seed)
        odds = np.full(len(cosines), np.nan)
        odds[~np.isnan(cosines)] = two.log_odds(usable)
        notes = []
        if two.separation < SEPARATE:
            notes.append(
                f"the two Gaussians overlap (separation {two.separation:.2f}, two kinds of pairs have "
                f"{SEPARATE:g} or more): much of what the split drops is clean"
            )
        return PairScores.split(odds, read, facts={"mixture": facts_of(two)}, notes=tuple(notes))


def facts_of(two: TwoGaussians) -> dict[str, Any]:
    """Return plain values for a report."""
    named = {
        name: {
            "mean": round(float(two.means[i]), 4),
            "deviation": round(float(two.deviations[i]), 4),
            "share": round(float(two.shares[i]), 4),
        }
        for i, name in enumerate(("mismatched", "matching"))
    }
    return {**named, "separation": round(two.separation, 4)}


# -- Pre-training control: drop pairs at random.


@DEFENSES.register("random-drop")
class RandomDrop(ScoreFilter):
    """Drop pairs at random: the control that a filter is compared with.

    Fewer pairs are less poison, and fewer steps of training, whichever pairs they are. The scores are drawn evenly from
    [0, 1) by the seed. `clean_loss` drops exactly its share of the pairs: to drop as many as another filter, give
    `dropped_pairs` / `pairs` of that filter's report.

    Args:
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`); 2% of the pairs unless given.

    Raises:
        InputError: If a value is out of range.
    """

    name: ClassVar[str] = "random-drop"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "a control"
    summary: ClassVar[str] = "drops pairs at random, as a baseline for other filters"
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = "no embedding; drops the same share of poison and of clean pairs"
    score_name = "random number"
    score_range = (0.0, 1.0)
    default_cut = Cut(clean_loss=0.02)

    def score(self, read: ReadPairs) -> PairScores:
        """Return a random number in [0, 1) for each pair."""
        return PairScores.split(generator(read.seed, "random-drop").random(read.rows), read)
