"""Pre-training defence: drop groups of pairs whose captions of one kind are with images of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut, CutOptions, check_number
from mmpoison.defenses.filter_result import PairScores, SuspectedGoal
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.defenses.filters.suspicious_groups._cells import Clustering
from mmpoison.defenses.filters.suspicious_groups._features import caption_features, image_features
from mmpoison.defenses.filters.suspicious_groups._goals import MIN_VOTES, Group, with_clusters
from mmpoison.defenses.filters.suspicious_groups._scan import scan
from mmpoison.defenses.filters.suspicious_groups._views import Index, Views, require_sklearn
from mmpoison.defenses.filters.suspicious_groups._words import Vocabulary
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset

EXAMPLES = 5


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find which goals a data set is poisoned towards, and drop their pairs.

    A filter by distance finds single odd pairs, and clean data are full of those. Poison comes in groups: captions on
    one topic, on images of one kind, where the other captions of these images and the other images of this topic have
    nothing to do with each other. Captions and images are clustered several times; in every table of caption clusters
    against image clusters the conflicting pairs are counted, and a cell is suspicious that holds more of them than a
    negative binomial model of the clean part allows. Groups that several clusterings agree on become goals. Besides,
    each conflicting pair is scored by how many others are alike on both sides, which needs no clusters.

    Nothing is trained and no label, manifest or trusted pair is needed; the encoder need not be aligned. Goals between
    kinds that resemble each other (two kinds of houses) look like the mistakes of clean data and are not found.

    A cut by `false_alarms` (0.01 unless given) drops the pairs of the goals that clean data would show at most so
    often. Any other cut drops the pairs with the largest scores besides, which catches goals that are not significant;
    `clean_loss` is a share of all pairs, those of the goals counted, and costs that share where there is no poison.

    Args:
        conflicting: Share of the pairs that count as conflicting with their image, in (0, 1).
        affinity: Cosine between two kinds, from which their confusion counts as natural, in (-1, 1).
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`).

    Raises:
        InputError: If a value is out of range.
    """

    name: ClassVar[str] = "suspicious-groups"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = (
        "finds the goals that a data set is poisoned towards, without labels, and drops their pairs"
    )
    parameters: ClassVar[Mapping[str, str]] = {
        "conflicting": "how many pairs count as conflicting: more find poison that fits better, among more noise",
        "affinity": "how alike two kinds may be: a larger one finds goals between similar kinds, and more mistakes",
    }
    cost: ClassVar[str] = (
        "each image and caption is embedded once; nine clusterings; clean pairs of the same odd kind go along"
    )

    finds_groups = True
    score_name = "evidence against a pair"
    default_cut = Cut(false_alarms=0.01)

    def __init__(
        self, conflicting: float = 0.2, affinity: float = 0.3, **cut: Unpack[CutOptions]
    ) -> None:
        super().__init__(**cut)
        check_number("conflicting", conflicting, "between 0 and 1", 0, 1)
        check_number("affinity", affinity, "between -1 and 1", -1, 1)
        require_sklearn()
        self.conflicting = conflicting
        self.affinity = affinity

    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Return the evidence against each pair, and all groups; any encoder that distinguishes topics will do."""
        return self.score_views(pairs, views_of(pairs, encoder, inputs, progress), seed=seed)

    def score_views(
        self,
        pairs: PairDataset,
        views: Views,
        *,
        seed: int = 0,
        prepared: Sequence[Clustering] | None = None,
    ) -> PairScores:
        """Score pairs by vectors that are computed already, as `score` does.

        Args:
            pairs: The pairs.
            views: Vectors of their captions and images.
            seed: Seed of the clusterings.
            prepared: Clusterings of the same vectors, made before.
        """
        found = scan(
            views,
            conflicting=self.conflicting,
            affinity=self.affinity,
            seed=seed,
            prepared=prepared,
        )
        groups = with_clusters(found.groups, found.evidence.clusters)
        describe = _Describer(pairs, views)
        return PairScores(found.evidence.score, goals=tuple(map(describe, groups)))


def views_of(
    pairs: PairDataset,
    encoder: DualEncoder,
    inputs: PairInputs,
    progress: ProgressFor | None = None,
) -> Views:
    """Return the vectors of the captions and images of pairs; both in sorted order, each once."""
    captions, caption_of = np.unique(pairs.captions.astype(str), return_inverse=True)
    images, image_of = np.unique(pairs.image, return_inverse=True)
    return Views.of(
        caption_features(encoder, inputs, captions.astype(object), progress),
        image_features(encoder, inputs, images.astype(np.int32), progress),
        caption_of,
        image_of,
    )


class _Describer:
    """Turns groups into goals that a person can read."""

    def __init__(self, pairs: PairDataset, views: Views) -> None:
        self.pairs = pairs
        self.views = views
        order = np.unique(views.caption_of, return_index=True)[1]
        self.caption_text = {int(views.caption_of[row]): str(pairs.captions[row]) for row in order}
        used = sorted(self.caption_text)
        self.position = {caption: index for index, caption in enumerate(used)}
        counts = np.bincount(views.caption_of, minlength=len(views.text))[used]
        self.vocabulary = Vocabulary([self.caption_text[c] for c in used], counts.tolist())

    def __call__(self, group: Group) -> SuspectedGoal:
        rows = group.rows[group.votes >= MIN_VOTES]
        if not len(rows):
            rows = group.rows
        images = np.unique(self.views.image_of[rows])
        others = np.isin(self.views.image_of, images)
        others[group.rows] = False
        frequent = Counter(str(caption) for caption in self.pairs.captions[rows])
        ids = Counter(str(self.pairs.images.ids[image]) for image in self.pairs.image[rows])
        return SuspectedGoal(
            captions_about=self._terms(rows),
            images_about=self._terms(np.flatnonzero(others)),
            rows=rows,
            images=len(images),
            expected=group.cell.expected if group.cell else None,
            found=group.cell.count if group.cell else None,
            p_value=group.p_value,
            evidence=group.evidence,
            score=group.score,
            example_captions=tuple(text for text, _ in frequent.most_common(EXAMPLES)),
            example_images=tuple(name for name, _ in ids.most_common(EXAMPLES)),
        )

    def _terms(self, rows: Index) -> tuple[str, ...]:
        return self.vocabulary.terms(
            [self.position[int(caption)] for caption in self.views.caption_of[rows]]
        )
