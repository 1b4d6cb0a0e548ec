"""Pre-training defence: drop groups of pairs that push captions of one kind onto images of another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.filters.relevance_filter import FilterResult
from mmpoison.defenses.filters.suspicious_groups._cells import Clustering
from mmpoison.defenses.filters.suspicious_groups._features import caption_features, image_features
from mmpoison.defenses.filters.suspicious_groups._goals import MIN_VOTES, Group, with_heaps
from mmpoison.defenses.filters.suspicious_groups._scan import scan
from mmpoison.defenses.filters.suspicious_groups._views import Index, Views, require_sklearn
from mmpoison.defenses.filters.suspicious_groups._words import Vocabulary
from mmpoison.defenses.filters.thresholds import check_loss
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import BoolArray, PairDataset

EXAMPLES = 5


@dataclass(frozen=True)
class SuspectedGoal:
    """Captions of one kind on images of another kind, more often than clean data explain.

    Attributes:
        captions_about: Words that set its captions apart from the others.
        images_about: Words that set the other captions of its images apart.
        rows: Its pairs, as rows of the judged set.
        images: How many images they are on.
        expected: How many images clean data like these would have in the most telling cell; None where no cell tells.
        found: How many it has.
        p_value: Chance that a clean data set shows any such group, in [0, 1]; 1 where nothing is known of it.
        evidence: Sum of -log10 p over the clusterings.
        strength: Evidence that heaps up in it; ranks what is not significant.
        example_captions: Its most frequent captions.
        example_images: Ids of images that they are on.
    """

    captions_about: tuple[str, ...]
    images_about: tuple[str, ...]
    rows: Index
    images: int
    expected: float | None
    found: int | None
    p_value: float
    evidence: float
    strength: float
    example_captions: tuple[str, ...]
    example_images: tuple[str, ...]

    def __str__(self) -> str:
        captions, images = (
            ", ".join(words) or "?" for words in (self.captions_about, self.images_about)
        )
        return (
            f"someone pushes captions about {captions} to images about {images}: "
            f"{len(self.rows)} pairs on {self.images} images (p = {self.p_value:.1g})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "sentence": str(self),
            "captions_about": list(self.captions_about),
            "images_about": list(self.images_about),
            "pairs": len(self.rows),
            "images": self.images,
            "p_value": self.p_value,
            "evidence": round(self.evidence, 2),
            "strength": round(self.strength, 2),
            "cell": None
            if self.expected is None
            else {"found": self.found, "expected": round(self.expected, 2)},
            "example_captions": list(self.example_captions),
            "example_images": list(self.example_images),
        }


@dataclass(frozen=True)
class GroupResult(FilterResult):
    """What the scan decided; `distances` are the evidence against each pair, larger for more.

    A pair is dropped for its goal, or because `clean_loss` gives it up; `threshold` is the evidence from which on the
    latter happens, the largest of all without `clean_loss`.

    Attributes:
        goals: Suspected goals, the most significant first.
        unproven: Groups that are not significant, the strongest first, for somebody who wants to look further.
    """

    goals: tuple[SuspectedGoal, ...] = ()
    unproven: tuple[SuspectedGoal, ...] = ()

    def facts(self, pairs: PairDataset) -> dict[str, Any]:
        """Counts for a log, with the goals."""
        return super().facts(pairs) | {"suspected_goals": [goal.to_json() for goal in self.goals]}


@DEFENSES.register("suspicious-groups")
class SuspiciousGroups:
    """Find which goals a data set is poisoned towards, and drop their pairs.

    A filter by distance finds single odd pairs, and clean data are full of those. Poison comes in groups: captions on
    one topic, on images of one kind, where the other captions of these images and the other images of this topic have
    nothing to do with each other. Captions and images are clustered several times; in every table of caption clusters
    against image clusters the conflicting pairs are counted, and a cell is suspicious that holds more of them than a
    negative binomial model of the clean part allows. Groups that several clusterings agree on become goals. Beside
    that, each conflicting pair is scored by how many others are alike on both sides, which needs no clusters.

    Nothing is trained and no label, manifest or trusted pair is needed; the encoder need not be aligned. Goals between
    kinds that resemble each other (two kinds of houses) look like the mistakes of clean data and are not found.

    Args:
        false_alarms: A goal is reported, and its pairs dropped, if clean data would show such a group at most this
            often, in (0, 1).
        clean_loss: Also drop the pairs with the most evidence against them, until this share of all pairs is gone, in
            (0, 1); it catches goals that are not significant, and costs that share of clean pairs where there is none.
        conflicting: Share of the pairs that count as conflicting with their image, in (0, 1).
        affinity: Cosine between two kinds, from which their confusion counts as natural, in (-1, 1).

    Raises:
        InputError: If a value is out of range.
    """

    name: ClassVar[str] = "suspicious-groups"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = (
        "finds the goals that a data set is poisoned towards, without labels, and drops their pairs"
    )
    knobs: ClassVar[Mapping[str, str]] = {
        "false_alarms": "how often clean data may raise an alarm: a larger share finds weaker goals",
        "clean_loss": "the share of pairs one is ready to lose: more catches weaker goals",
        "conflicting": "how many pairs count as conflicting: more find poison that fits better, among more noise",
        "affinity": "how alike two kinds may be: a larger one finds goals between similar kinds, and more mistakes",
    }
    cost: ClassVar[str] = (
        "each image and caption is embedded once; nine clusterings; clean pairs of the same odd kind go along"
    )

    def __init__(
        self,
        false_alarms: float = 0.01,
        clean_loss: float | None = None,
        conflicting: float = 0.2,
        affinity: float = 0.3,
    ) -> None:
        if clean_loss is not None:
            check_loss(clean_loss)
        for what, value, low in (
            ("false_alarms", false_alarms, 0),
            ("conflicting", conflicting, 0),
            ("affinity", affinity, -1),
        ):
            if not low < value < 1:
                raise InputError(f"{what} {value} is not between {low} and 1")
        require_sklearn()
        self.false_alarms = false_alarms
        self.clean_loss = clean_loss
        self.conflicting = conflicting
        self.affinity = affinity

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> GroupResult:
        """Judge every pair.

        Args:
            pairs: The pairs to judge; usually the training pairs.
            encoder: Embeds captions and images; any model that tells topics apart, aligned or not.
            inputs: Prepared inputs for it, holding all pairs.
            trusted: Not used: the pairs vouch for each other.
            seed: Seed of the clusterings.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there is no pair.
        """
        if not len(pairs):
            raise InputError("there is no pair to scan")
        return self.judge(pairs, views_of(pairs, encoder, inputs, progress), seed=seed)

    def judge(
        self,
        pairs: PairDataset,
        views: Views,
        *,
        seed: int = 0,
        prepared: Sequence[Clustering] | None = None,
    ) -> GroupResult:
        """Judge pairs by vectors that are there already, as `apply` does.

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
        describe = _Describer(pairs, views)
        goals, unproven = [], []
        keep: BoolArray = np.ones(len(pairs), dtype=bool)
        score = found.evidence.score
        for group in with_heaps(found.groups, found.evidence.heaps, self.false_alarms):
            goal = describe(group)
            if group.p_value <= self.false_alarms:
                goals.append(goal)
                keep[goal.rows] = False
            else:
                unproven.append(goal)
        threshold = float(score.max())
        if self.clean_loss is not None:
            order = np.lexsort((-score, keep))
            drop = order[: round(self.clean_loss * len(pairs))]
            threshold = float(score[drop].min()) if len(drop) else threshold
            keep[drop] = False
        return GroupResult(
            pairs.where(keep),
            keep,
            score,
            threshold,
            goals=tuple(goals),
            unproven=tuple(unproven),
        )


def views_of(
    pairs: PairDataset,
    encoder: DualEncoder,
    inputs: PairInputs,
    progress: ProgressFor | None = None,
) -> Views:
    """Vectors of the captions and images of pairs; both in sorted order, each once."""
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
        beside = np.isin(self.views.image_of, images)
        beside[group.rows] = False
        frequent = Counter(str(caption) for caption in self.pairs.captions[rows])
        ids = Counter(str(self.pairs.images.ids[image]) for image in self.pairs.image[rows])
        return SuspectedGoal(
            captions_about=self._terms(rows),
            images_about=self._terms(np.flatnonzero(beside)),
            rows=rows,
            images=len(images),
            expected=group.cell.expected if group.cell else None,
            found=group.cell.count if group.cell else None,
            p_value=group.p_value,
            evidence=group.evidence,
            strength=group.strength,
            example_captions=tuple(text for text, _ in frequent.most_common(EXAMPLES)),
            example_images=tuple(name for name, _ in ids.most_common(EXAMPLES)),
        )

    def _terms(self, rows: Index) -> tuple[str, ...]:
        return self.vocabulary.terms(
            [self.position[int(caption)] for caption in self.views.caption_of[rows]]
        )
