"""Pre-training defence: drop groups of pairs whose captions of one kind are with images of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.filter_result import FEWEST_IMAGES, PairScores, SuspectedGoal
from mmpoison.defenses.filters.decide import ScoreFilter
from mmpoison.defenses.filters.suspicious_groups._conflict import Index, Views, crowded
from mmpoison.defenses.filters.suspicious_groups._evidence import SuspiciousCluster, false_alarms_at
from mmpoison.defenses.filters.suspicious_groups._features import (
    caption_features,
    image_features,
)
from mmpoison.defenses.filters.suspicious_groups._scan import scan
from mmpoison.defenses.filters.suspicious_groups._words import Vocabulary
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset

EXAMPLES = 5
ALIKE_IMAGES = 10
"""Images without other captions are described by the captions of so many images that are most like them."""


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find which goals a data set is poisoned towards, and drop their pairs.

    A filter by distance finds single odd pairs, and clean data are full of those. Poison comes in groups: captions on
    one topic, on images of one kind, that what is said of other images does not explain. Two views of the data look for
    such groups, by regressions between captions and images that are fitted on other images: one compares each caption
    with its image and with the image's other captions; the other compares all captions of an image with it, for an
    attacker who posts his own images, where his captions vouch for each other. In either view an item counts the more,
    the more conflicting items are like it on both sides; the larger of its two ranks is the score of a pair.

    Nothing is trained and no label, manifest or trusted pair is needed; the encoder need not be aligned. Goals between
    kinds that resemble each other (two kinds of houses) look like the mistakes of clean data and are hardly found.

    A cut by `false_alarms` (0.01 unless given) drops the pairs of the goals that clean data would show at most so
    often. Any other cut drops the pairs with the largest scores besides, which catches goals that are not significant;
    `clean_loss` is a share of all pairs, those of the goals counted, and costs that share where there is no poison.

    Args:
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
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "each image and caption is embedded once; clean pairs of the same odd kind go along"
    )

    finds_groups = True
    score_name = "evidence against a pair"
    default_cut = Cut(false_alarms=0.01)

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

    def score_views(self, pairs: PairDataset, views: Views, *, seed: int = 0) -> PairScores:
        """Score pairs by vectors that are computed already, as `score` does.

        Args:
            pairs: The pairs.
            views: Vectors of their captions and images.
            seed: Seed of the folds of the regressions.
        """
        found = scan(views, seed)
        describe = _Describer(pairs, views)
        return PairScores(found.score, goals=tuple(map(describe, found.clusters)))


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
        self.crowded = crowded(np.bincount(views.image_of, minlength=len(views.image)))
        self.vocabulary = Vocabulary([self.caption_text[c] for c in used], counts.tolist())

    def __call__(self, cluster: SuspiciousCluster) -> SuspectedGoal:
        rows = cluster.rows
        images = np.unique(self.views.image_of[rows])
        crowd = len(images) == 1 and bool(self.crowded[images[0]])
        large = crowd or len(images) >= FEWEST_IMAGES
        frequent = Counter(str(caption) for caption in self.pairs.captions[rows])
        ids = Counter(str(self.pairs.images.ids[image]) for image in self.pairs.image[rows])
        return SuspectedGoal(
            captions_about=self._terms(rows),
            images_about=self._terms(self._other_captions(rows, images)),
            rows=rows,
            images=len(images),
            found=cluster.found,
            expected=cluster.expected,
            false_alarms=false_alarms_at(cluster.score) if large else 1.0,
            score=cluster.score,
            example_captions=tuple(text for text, _ in frequent.most_common(EXAMPLES)),
            example_images=tuple(name for name, _ in ids.most_common(EXAMPLES)),
            crowded=crowd,
        )

    def _other_captions(self, rows: Index, images: Index) -> Index:
        """Return the other pairs of images; where most have none, those of the images most like them."""
        on_them = np.isin(self.views.image_of, images)
        others = np.setdiff1d(np.flatnonzero(on_them), rows)
        if len(others) >= len(images):
            return others
        alike = self.views.image @ self.views.image[images].mean(axis=0)
        alike[np.setdiff1d(np.arange(len(alike)), self.views.image_of[~on_them])] = -np.inf
        nearest = np.argsort(-alike, kind="stable")[:ALIKE_IMAGES]
        return np.flatnonzero(np.isin(self.views.image_of, nearest) & ~on_them)

    def _terms(self, rows: Index) -> tuple[str, ...]:
        return self.vocabulary.terms(
            [self.position[int(caption)] for caption in self.views.caption_of[rows]]
        )
