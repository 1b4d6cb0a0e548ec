"""Pre-training defence: drop pairs whose image and caption do not fit under another encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.datasets.pairs import BoolArray, PairDataset
from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.errors import InputError
from mmpoison.metrics import cosine_distance
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import PairInputs, ProgressFor


@dataclass(frozen=True)
class FilterResult:
    """What a filter decided.

    Attributes:
        kept: The pairs that stay.
        keep: Verdict for each pair, shape `(N,)`.
        distances: Cosine distance of each pair, in [0, 2], shape `(N,)`.
        threshold: Pairs with a distance above it were dropped.
    """

    kept: PairDataset
    keep: BoolArray
    distances: npt.NDArray[np.float64]
    threshold: float

    def facts(self, pairs: PairDataset) -> dict[str, Any]:
        """Counts for a log; those that need the manifest only where the pairs are known to be poisoned."""
        facts: dict[str, Any] = {
            "threshold": round(self.threshold, 6),
            "pairs": len(pairs),
            "dropped_pairs": int((~self.keep).sum()),
        }
        if pairs.manifest is not None and pairs.poisoned.any():
            bad = pairs.poisoned
            facts["clean_dropped"] = int((~self.keep & ~bad).sum())
            if not bad.all():
                facts["clean_dropped_share"] = float((~self.keep[~bad]).mean())
            facts["poisoned_caught"] = int((~self.keep & bad).sum())
            facts["poisoned_total"] = int(bad.sum())
            if not bad.all():
                facts["auroc"] = auroc(self.distances[bad], self.distances[~bad])
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

    Raises:
        InputError: If not exactly one of the two is given, or it is out of range.
    """

    name: ClassVar[str] = "relevance-filter"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.1"
    summary: ClassVar[str] = (
        "drops pairs whose image and caption are far apart under another encoder"
    )

    def __init__(self, threshold: float | None = None, clean_loss: float | None = None) -> None:
        if (threshold is None) == (clean_loss is None):
            raise InputError("exactly one of threshold and clean_loss says where to cut")
        if threshold is not None and not 0 < threshold < 2:
            raise InputError(f"threshold {threshold} is not a cosine distance between 0 and 2")
        if clean_loss is not None and not 0 < clean_loss < 1:
            raise InputError(f"clean_loss {clean_loss} is not a share between 0 and 1")
        self.threshold = threshold
        self.clean_loss = clean_loss

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        progress: ProgressFor | None = None,
    ) -> FilterResult:
        """Judge every pair.

        Args:
            pairs: The pairs to judge; usually the training pairs.
            encoder: The judge.
            inputs: Prepared inputs for the judge, holding all pairs.
            trusted: Pairs known to be clean, to set the threshold for `clean_loss`. They must be of the kind of the
                judged pairs, and the judge must not have been trained on them: its own training pairs lie closer
                together than any others, and the threshold would drop nearly everything.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there is no pair, or nothing would be left.
        """
        if not len(pairs):
            raise InputError("there is no pair to filter")
        distances = pair_distances(encoder, inputs, pairs, progress=progress)
        threshold = self.threshold
        if threshold is None:
            assert self.clean_loss is not None
            known = (
                pair_distances(encoder, inputs, trusted, progress=progress)
                if trusted is not None and len(trusted)
                else distances
            )
            threshold = float(np.quantile(known, 1 - self.clean_loss))
        keep: BoolArray = np.asarray(distances <= threshold)
        if not keep.any():
            raise InputError(
                f"threshold {threshold:g} drops every pair: distances run from {distances.min():.3f} "
                f"to {distances.max():.3f}"
            )
        return FilterResult(pairs.where(keep), keep, distances, threshold)


def pair_distances(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    *,
    progress: ProgressFor | None = None,
) -> npt.NDArray[np.float64]:
    """Cosine distance between image and caption of each pair, in [0, 2], shape `(N,)`.

    Each image and each distinct caption is embedded once, however many pairs it is in.
    """
    used, image_row = np.unique(pairs.image, return_inverse=True)
    image = embed_images(
        encoder, inputs, used, progress=progress("judging images") if progress else None
    )
    text = embed_texts(
        encoder, inputs, pairs.captions, progress=progress("judging captions") if progress else None
    )
    return np.asarray(cosine_distance(text, image[image_row]))


def auroc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Probability that a positive scores above a negative, ties counted half, in [0, 1].

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    below_or_equal = np.searchsorted(ordered, positive, side="right")
    return float((below + below_or_equal).mean() / 2 / len(ordered))
