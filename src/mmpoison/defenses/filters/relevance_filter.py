"""Pre-training defence: drop pairs whose image and caption do not fit under another encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.filters.distance_scan import embed_pairs, mismatched_distances
from mmpoison.defenses.filters.thresholds import (
    Threshold,
    automatic_threshold,
    check_loss,
    given_threshold,
    loss_threshold,
)
from mmpoison.errors import InputError
from mmpoison.metrics import cosine_distance
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import BoolArray, PairDataset

BINS = 60
"""Bins of the densities that are kept with a run."""


@dataclass(frozen=True)
class FilterResult:
    """What a filter decided.

    Attributes:
        kept: The pairs that stay.
        keep: Verdict for each pair, shape `(N,)`.
        distances: Cosine distance of each pair, in [0, 2], shape `(N,)`.
        threshold: Pairs with a distance above it were dropped.
        cut: How the threshold was chosen, where that is known.
    """

    kept: PairDataset
    keep: BoolArray
    distances: npt.NDArray[np.float64]
    threshold: float
    cut: Threshold | None = None

    def facts(self, pairs: PairDataset) -> dict[str, Any]:
        """Counts for a log; those that need the manifest only where the pairs are known to be poisoned."""
        bad = pairs.poisoned if pairs.manifest is not None else None
        facts = verdict_facts(self.keep, self.distances, self.threshold, bad)
        if bad is not None and bad.any() and not bad.all():
            facts["histogram"] = histogram(self.distances, bad)
        return facts


def histogram(
    distances: npt.NDArray[np.floating[Any]], poisoned: BoolArray, bins: int = BINS
) -> dict[str, list[float]]:
    """How many clean and poisoned pairs lie at each distance, for a figure of densities (figure 6).

    Args:
        distances: Distance of each pair, shape `(N,)`.
        poisoned: Whether each is poisoned, shape `(N,)`.
        bins: How many bins of equal width.

    Returns:
        `edges`, one more than bins, and the counts `clean` and `poisoned`.

    Example:
        >>> histogram(np.array([0.5, 0.6, 0.9]), np.array([False, False, True]), bins=2)
        {'edges': [0.5, 0.7, 0.9], 'clean': [2, 0], 'poisoned': [0, 1]}
    """
    edges = np.linspace(float(distances.min()), float(distances.max()), bins + 1)
    return {
        "edges": [round(float(edge), 5) for edge in edges],
        "clean": np.histogram(distances[~poisoned], edges)[0].tolist(),
        "poisoned": np.histogram(distances[poisoned], edges)[0].tolist(),
    }


def verdict_facts(
    keep: BoolArray,
    distances: npt.NDArray[np.floating[Any]],
    threshold: float,
    poisoned: BoolArray | None = None,
) -> dict[str, Any]:
    """Counts of what a filter did, for a log.

    Args:
        keep: Verdict for each pair, shape `(N,)`.
        distances: Distance of each pair, shape `(N,)`.
        threshold: Pairs above it were dropped.
        poisoned: What a manifest says of each pair, shape `(N,)`; None where there is none.
    """
    facts: dict[str, Any] = {
        "threshold": round(threshold, 6),
        "pairs": len(keep),
        "dropped_pairs": int((~keep).sum()),
    }
    if poisoned is not None and poisoned.any():
        facts["clean_dropped"] = int((~keep & ~poisoned).sum())
        if not poisoned.all():
            facts["clean_dropped_share"] = float((~keep[~poisoned]).mean())
        facts["poisoned_caught"] = int((~keep & poisoned).sum())
        facts["poisoned_total"] = int(poisoned.sum())
        if not poisoned.all():
            facts["auroc"] = auroc(distances[poisoned], distances[~poisoned])
            facts["average_precision"] = average_precision(
                distances[poisoned], distances[~poisoned]
            )
    return facts


@DEFENSES.register("relevance-filter")
class RelevanceFilter:
    """Drop pairs whose cosine distance is above a threshold (section 6.1, "pre-training defense").

    The encoder should be another one than the victim, so that what deceives the one need not deceive the other.

    Args:
        threshold: Pairs with a larger distance are dropped, in (0, 2); the paper uses 0.80 for CLIP ViT-B/16. Other
            encoders have other distances.
        clean_loss: Instead of a threshold: the share of clean pairs one is ready to lose, in (0, 1). The threshold is
            then the matching quantile of the distances of trusted pairs; without any, of the judged pairs themselves,
            which drops that share of them whatever they are.
        automatic: Instead of both: the distances themselves say where to cut, as `automatic_threshold` does.

    Raises:
        InputError: If not exactly one of the three is given, or it is out of range.
    """

    name: ClassVar[str] = "relevance-filter"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.1"
    summary: ClassVar[str] = (
        "drops pairs whose image and caption are far apart under another encoder"
    )
    knobs: ClassVar[Mapping[str, str]] = {
        "threshold": "a distance: a smaller one catches more poison and loses more clean pairs",
        "clean_loss": "the share of clean pairs one is ready to lose",
        "automatic": "no labels and no trusted pairs: about one pair in a hundred goes, more where a group stands out",
    }
    cost: ClassVar[str] = (
        "each image and caption is embedded once by the judge; the clean pairs that lie farthest apart"
    )

    def __init__(
        self,
        threshold: float | None = None,
        clean_loss: float | None = None,
        automatic: bool = False,
    ) -> None:
        if (threshold is not None) + (clean_loss is not None) + automatic != 1:
            raise InputError("exactly one of threshold, clean_loss and automatic says where to cut")
        if threshold is not None:
            given_threshold(threshold)
        if clean_loss is not None:
            check_loss(clean_loss)
        self.threshold = threshold
        self.clean_loss = clean_loss
        self.automatic = automatic

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> FilterResult:
        """Judge every pair of a set in memory; `filter_pairs` does it for a set of any size.

        Args:
            pairs: The pairs to judge; usually the training pairs.
            encoder: The judge.
            inputs: Prepared inputs for the judge, holding all pairs.
            trusted: Pairs known to be clean, to set the threshold for `clean_loss`. They must be of the kind of the
                judged pairs, and the judge must not have been trained on them: its own training pairs lie closer
                together than any others, and the threshold would drop nearly everything.
            seed: Nothing here is random.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there is no pair, or nothing would be left.
        """
        if not len(pairs):
            raise InputError("there is no pair to filter")
        text, image = embed_pairs(encoder, inputs, pairs, progress)
        distances = np.asarray(cosine_distance(text, image))
        if self.threshold is not None:
            cut = given_threshold(self.threshold)
        elif self.clean_loss is not None:
            known = (
                pair_distances(encoder, inputs, trusted, progress=progress)
                if trusted is not None and len(trusted)
                else None
            )
            groups = None if trusted is None else trusted.image
            cut = loss_threshold(distances, self.clean_loss, trusted=known, groups=groups)
        else:
            cut = automatic_threshold(distances, mismatched_distances(text, image))
        keep = verdicts(distances, cut.value)
        return FilterResult(pairs.where(keep), keep, distances, cut.value, cut)


def verdicts(distances: npt.NDArray[np.floating[Any]], threshold: float) -> BoolArray:
    """Which pairs stay, shape `(N,)`.

    Raises:
        InputError: If none would.
    """
    keep: BoolArray = np.asarray(distances <= threshold)
    if not keep.any():
        raise InputError(
            f"threshold {threshold:g} drops every pair: distances run from {distances.min():.3f} "
            f"to {distances.max():.3f}"
        )
    return keep


def pair_distances(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    *,
    progress: ProgressFor | None = None,
) -> npt.NDArray[np.float64]:
    """Cosine distance between image and caption of each pair, in [0, 2], shape `(N,)`."""
    return np.asarray(cosine_distance(*embed_pairs(encoder, inputs, pairs, progress)))


def auroc(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]]
) -> float:
    """Probability that a positive scores above a negative, ties counted half, in [0, 1].

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    below_or_equal = np.searchsorted(ordered, positive, side="right")
    return float((below + below_or_equal).mean() / 2 / len(ordered))


def average_precision(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]]
) -> float:
    """Area under the curve of precision against recall, in (0, 1]; equal scores come in together.

    >>> average_precision(np.array([3.0, 1.0]), np.array([2.0]))
    0.8333333333333333
    """
    scores, counts = np.unique(positive, return_counts=True)
    hits = np.cumsum(counts[::-1])[::-1]
    alarms = len(negative) - np.searchsorted(np.sort(negative), scores, side="left")
    return float((counts * hits / (hits + alarms)).sum() / len(positive))
