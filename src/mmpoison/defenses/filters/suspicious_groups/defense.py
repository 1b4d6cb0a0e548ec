"""Pre-training defence: drop groups of pairs whose captions of one kind are with images of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.filter_result import PairScores, SuspectedGoal
from mmpoison.defenses.filters.decide import ScoreFilter
from mmpoison.defenses.filters.suspicious_groups.features import (
    caption_features,
    image_features,
)
from mmpoison.defenses.filters.suspicious_groups.passes import Group, scan_memory
from mmpoison.defenses.filters.suspicious_groups.shard import Index, Space, VectorShard
from mmpoison.defenses.filters.suspicious_groups.words import Vocabulary
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset

EXAMPLES = 5
FEWEST_PAIRS = 40
"""Among fewer pairs no group is looked for."""

ALIKE_IMAGES = 10
"""Images without other captions are described by the captions of so many images that are most like them."""


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups(ScoreFilter):
    """Find which goals a data set is poisoned towards, and drop their pairs.

    A filter by distance finds single odd pairs, and clean data are full of those. Poison comes in groups: captions on
    one topic, on images of one kind, that what is said of other images does not explain. Two views of the data look for
    such groups, by regressions between captions and images that are fitted on other images: one compares each caption
    with its image and with the image's other captions; the other compares all captions of an image with it, for an
    attacker who posts his own images, where his captions vouch for each other. Conflicting
    items that are alike on both sides grow into a group. The score of a pair is its rank by conflict in the better of
    the two views, and the strength of the strongest group that has it.

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
        captions, caption_of = np.unique(pairs.captions.astype(str), return_inverse=True)
        images, image_of = np.unique(pairs.image, return_inverse=True)
        text = caption_features(encoder, inputs, captions.astype(object), progress)
        image = image_features(encoder, inputs, images.astype(np.int32), progress)
        # as the scan of a data set stores embeddings
        half = (side.astype(np.float16) for side in (text, image))
        text_of, image_in = (
            side[which] for side, which in zip(half, (caption_of, image_of), strict=True)
        )
        shard = VectorShard(0, text_of, image_in, image_of)
        return self.score_shard(pairs, shard, seed=seed, progress=progress)

    def score_shard(
        self,
        pairs: PairDataset,
        shard: VectorShard,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Score pairs by vectors that are computed already, as `score` does.

        Args:
            pairs: The pairs.
            shard: Vectors of their captions and images.
            seed: Seed of the sample and the folds of the regressions.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there are fewer than 20 usable pairs.
        """
        if len(shard) < FEWEST_PAIRS:
            few = f"{len(shard)} pairs are too few to look for groups: {FEWEST_PAIRS} are needed"
            return PairScores(np.zeros(len(shard)), goals=(), notes=(few,))
        groups, score, start = scan_memory(shard, seed, *([] if progress is None else [progress]))
        describe = _Describer(pairs, shard, start.image)
        return PairScores(np.nan_to_num(score), goals=tuple(map(describe, groups)))


class _Describer:
    """Turns groups into goals that a person can read."""

    def __init__(self, pairs: PairDataset, shard: VectorShard, space: Space) -> None:
        self.pairs, self.shard = pairs, shard
        self.captions, self.caption_of, counts = np.unique(
            pairs.captions.astype(str), return_inverse=True, return_counts=True
        )
        self.first = np.unique(shard.owner, return_index=True)
        self.image = space.reduce(np.asarray(shard.image[self.first[1]]))
        self.vocabulary = Vocabulary(self.captions.tolist(), counts.tolist())

    def __call__(self, group: Group) -> SuspectedGoal:
        rows = group.rows[self.shard.number]
        frequent = Counter(str(caption) for caption in self.pairs.captions[rows])
        ids = Counter(str(self.pairs.images.ids[image]) for image in self.pairs.image[rows])
        return SuspectedGoal(
            captions_about=self._terms(rows),
            images_about=self._terms(self._other_captions(rows)),
            rows=rows,
            images=group.images,
            found=group.conflicting,
            counted=group.counted,
            expected=group.expected,
            false_alarms=group.false_alarms,
            hardest=group.hardest,
            score=group.strength,
            example_captions=tuple(text for text, _ in frequent.most_common(EXAMPLES)),
            example_images=tuple(name for name, _ in ids.most_common(EXAMPLES)),
            crowded=group.crowded,
        )

    def _other_captions(self, rows: Index) -> Index:
        """Return the other pairs of images; where most have none, those of the images most like them."""
        owner = self.shard.owner
        images = np.unique(owner[rows])
        on_them = np.isin(owner, images)
        others = np.setdiff1d(np.flatnonzero(on_them), rows)
        if len(others) >= len(images):
            return others
        mine = np.isin(self.first[0], images)
        alike = np.nan_to_num(self.image @ np.nanmean(self.image[mine], axis=0), nan=-np.inf)
        alike[mine] = -np.inf
        nearest = self.first[0][np.argsort(-alike, kind="stable")[:ALIKE_IMAGES]]
        return np.flatnonzero(np.isin(owner, nearest) & ~on_them)

    def _terms(self, rows: Index) -> tuple[str, ...]:
        return self.vocabulary.terms(self.caption_of[rows].tolist())
