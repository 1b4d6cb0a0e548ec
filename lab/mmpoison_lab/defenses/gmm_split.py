"""Baseline from the literature: splits pairs by two Gaussians fitted to image-caption cosines."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from mmpoison.defenses import DEFENSES, Cut, DefenseKind, PairScores, ReadPairs, ScoreFilter
from mmpoison.errors import InputError
from mmpoison_lab.defenses.two_gaussians import TwoGaussians, fit_two_gaussians

SAFE = 0.9
"""Posterior probability from which SafeCLIP calls a pair safe."""

SEPARATE = 2.0
"""Separation from which two Gaussians are clearly distinct (Ashman, Bird and Zepf, 1994)."""


@DEFENSES.register("gmm-split")
class GmmSplit(ScoreFilter):
    """Keep the pairs that belong to the closer of two Gaussians, fitted to the judge's cosines.

    SafeCLIP splits its training pairs this way. The score is the log odds that a pair belongs to the Gaussian with the
    smaller mean: log(p / (1 - p)), where 1 - p is the posterior probability of the other Gaussian. By default, pairs
    with 1 - p of at least 0.9 are kept, which is a threshold of log(1/9) = -2.197.

    The log odds of two Gaussians with different widths are a parabola: far out, the wider one always wins, so the most
    distant pairs would be called safe. Here the log odds are used only between the two means, where they fall with the
    cosine, and continued along the tangents beyond. The order of scores thus equals that of distances, as in
    `relevance-filter`; only the threshold comes from the fit.

    Two Gaussians fit any data better than one. `separation`, under `mixture` in the report, is the difference of the
    means in root mean squares of the two deviations. Below 2 there are hardly two kinds of pairs.

    Args:
        **cut: Where to cut (`mmpoison.defenses.catalogue.Cut`); at a posterior of 0.9 unless given.

    Raises:
        InputError: If a value is out of range, or scikit-learn is not installed.
    """

    name: ClassVar[str] = "gmm-split"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "the split of SafeCLIP (Yang et al., ICML 2024)"
    summary: ClassVar[str] = (
        "fits two Gaussians to the image-caption cosines, and keeps the pairs of the closer one"
    )
    cost: ClassVar[str] = (
        "one embedding pass of the judge; drops many clean pairs if there is little poison"
    )
    needs_aligned_judge = True
    score_name = "log odds that image and caption do not match"
    default_cut = Cut(threshold=math.log((1 - SAFE) / SAFE))

    def score(self, read: ReadPairs) -> PairScores:
        """Return the log odds that each pair belongs to the Gaussian with the smaller mean."""
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
