"""The paper's filter: drops pairs whose image and caption do not match under another encoder."""

from __future__ import annotations

from typing import ClassVar

from mmpoison.defenses.catalogue import DEFENSES, DefenseKind
from mmpoison.defenses.scan.cut.score_filter import PairScores, ScoreFilter
from mmpoison.defenses.scan.read.pass_runner import ReadPairs
from mmpoison.defenses.scan.read.vector_shard import DISTANCE


@DEFENSES.register("relevance-filter")
class RelevanceFilter(ScoreFilter):
    """Drop pairs whose cosine distance is above a threshold (section 6.1, "pre-training defense").

    Use a different encoder than the victim, so that an attack on one need not deceive the other. Trusted pairs must
    resemble the judged pairs, and the judge must not have been trained on them: captions and images of training pairs
    are closer than any others, so the threshold would drop nearly everything.

    The paper's threshold for CLIP ViT-B/16 is 0.80. Other encoders have other distances, so there is no default.
    """

    name: ClassVar[str] = "relevance-filter"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.1"
    summary: ClassVar[str] = "drops pairs whose image and caption are far apart in another encoder"
    cost: ClassVar[str] = "one embedding pass of the judge; also drops the most distant clean pairs"
    needs_aligned_judge = True
    uses_trusted = True
    score_name = DISTANCE
    score_range = (0.0, 2.0)

    def score(self, read: ReadPairs) -> PairScores:
        """Return the cosine distance of each pair, in [0, 2]."""
        return PairScores(read.distance)
