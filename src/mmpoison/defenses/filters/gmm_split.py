"""Pre-training defence: split pairs by two Gaussians that are fitted to the cosines of image and caption."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt

from mmpoison.base.extras import require
from mmpoison.base.seeding import torch_seed
from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut, CutOptions
from mmpoison.defenses.filter_result import PairScores
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.errors import InputError
from mmpoison.metrics import cosine_distance
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset

Values = npt.NDArray[np.float64]

SAFE = 0.9
"""SafeCLIP calls a pair safe from this posterior probability on."""

SEPARATE = 2.0
"""Two Gaussians are clearly two from this separation on (Ashman, Bird and Zepf, 1994)."""

LEAST_VARIANCE = 1e-6
"""Added to the variances: a Gaussian on equal cosines would be a spike."""

TOLERANCE, ITERATIONS = 1e-7, 2000
"""EM ends where the mean log-likelihood gains less: scikit-learn's 1e-3 stops at once where two Gaussians overlap."""


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
        "keeps the pairs of the closer of two Gaussians, fitted to the cosines of image and caption"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "each image and caption is embedded once by the judge; many clean pairs where there is little poison"
    )
    needs_aligned_judge = True
    score_name = "log odds that image and caption do not match"
    default_cut = Cut(threshold=math.log((1 - SAFE) / SAFE))

    def __init__(self, **cut: Unpack[CutOptions]) -> None:
        super().__init__(**cut)
        _require_sklearn()

    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Return the log odds that each pair is of the Gaussian with the smaller mean."""
        text, image = embed_pairs(encoder, inputs, pairs, progress)
        cosines = 1 - np.asarray(cosine_distance(text, image), dtype=np.float64)
        mixture = fit_mixture(cosines, seed=seed)
        notes = []
        if mixture.separation < SEPARATE:
            notes.append(
                f"the two Gaussians overlap (separation {mixture.separation:.2f}, two kinds of pairs have "
                f"{SEPARATE:g} or more): much of what the split drops is clean"
            )
        return PairScores(
            mixture.log_odds(cosines),
            (text, image),
            facts={"mixture": mixture.facts()},
            notes=tuple(notes),
            distances=False,
        )


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians on a line, the one with the smaller mean first.

    Attributes:
        means: Shape `(2,)`, sorted.
        deviations: Standard deviations, shape `(2,)`.
        shares: Of the values, shape `(2,)`, sum 1.
    """

    means: Values
    deviations: Values
    shares: Values

    @property
    def separation(self) -> float:
        """Difference of the means, in root mean squares of the two deviations."""
        return float((self.means[1] - self.means[0]) / np.sqrt((self.deviations**2).mean()))

    def log_odds(self, values: Values) -> Values:
        """Compute the log odds of the first Gaussian, continued beyond the two means along the tangents.

        Args:
            values: Shape `(N,)`.

        Returns:
            Shape `(N,)`; never increasing in the values.

        >>> one = Mixture(np.array([0.0, 1.0]), np.array([0.1, 0.5]), np.array([0.5, 0.5]))
        >>> bool(one.log_odds(np.array([-9.0]))[0] > one.log_odds(np.array([0.0]))[0])
        True
        """
        within = values.clip(*self.means)
        first, second = (
            np.log(self.shares[i] / self.deviations[i])
            - ((within - self.means[i]) / self.deviations[i]) ** 2 / 2
            for i in (0, 1)
        )
        # at a mean the slope is that of the other Gaussian alone
        gap = self.means[1] - self.means[0]
        slope = np.where(values < self.means[0], gap / self.deviations[1] ** 2, 0.0)
        slope += np.where(values > self.means[1], gap / self.deviations[0] ** 2, 0.0)
        return np.asarray(first - second - slope * (values - within))

    def facts(self) -> dict[str, Any]:
        """Return plain values for a report."""
        named = {
            name: {
                "mean": round(float(self.means[i]), 4),
                "deviation": round(float(self.deviations[i]), 4),
                "share": round(float(self.shares[i]), 4),
            }
            for i, name in enumerate(("mismatched", "matching"))
        }
        return {**named, "separation": round(self.separation, 4)}


def fit_mixture(values: Values, *, seed: int = 0) -> Mixture:
    """Fit two Gaussians by EM.

    Args:
        values: Shape `(N,)`, with two different ones at least.
        seed: Of the clustering that EM starts from.

    Raises:
        InputError: If all values are equal.
    """
    if not len(values) or np.ptp(values) == 0:
        raise InputError(
            f"the {len(values):,} pairs are all equally far apart: two Gaussians need different cosines"
        )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(
        2,
        tol=TOLERANCE,
        max_iter=ITERATIONS,
        reg_covar=LEAST_VARIANCE,
        random_state=torch_seed(seed, "gmm-split") % 2**32,
    )
    with warnings.catch_warnings():
        # a fit that still moves in the seventh digit will do
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(values[:, None])
    order = np.argsort(model.means_[:, 0])
    return Mixture(
        model.means_[order, 0],
        np.sqrt(model.covariances_[order, 0, 0]),
        model.weights_[order],
    )


def _require_sklearn() -> None:
    require("sklearn", "gmm-split needs scikit-learn")
