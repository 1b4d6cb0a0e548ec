"""Pre-training defence: drop pairs whose image and caption do not match under another encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.filter_result import PairScores
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.metrics import cosine_distance
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset


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
        "each image and caption is embedded once by the judge; the clean pairs that lie farthest apart"
    )
    needs_aligned_judge = True
    streams = True
    uses_trusted = True
    score_name = "cosine distance of image and caption"
    score_range = (0.0, 2.0)

    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Return the cosine distance of each pair, in [0, 2]."""
        text, image = embed_pairs(encoder, inputs, pairs, progress)
        return PairScores(np.asarray(cosine_distance(text, image)), (text, image))


def pair_distances(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    *,
    progress: ProgressFor | None = None,
) -> npt.NDArray[np.float64]:
    """Return the cosine distance between image and caption of each pair, in [0, 2], shape `(N,)`."""
    return np.asarray(cosine_distance(*embed_pairs(encoder, inputs, pairs, progress)))
