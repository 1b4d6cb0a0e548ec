"""The test part of a data set (gallery and queries), and its embeddings under one model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.settings import Goal
from mmpoison.base.progress import Progress
from mmpoison.errors import InputError
from mmpoison.metrics import drift, embedding_ranks
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embeddings, embed_images, embed_texts
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset
from mmpoison.records.run_files import Drift

# -- `GoalTarget`: a goal and its target set, the images that its captions are meant to retrieve.


@dataclass(frozen=True)
class GoalTarget:
    """A goal and its target set.

    Attributes:
        goal: The goal. Captions of its original class are the queries.
        image: Path of the single target image (attack I); None if every test image of the target class is a target
            (attacks II and III).
    """

    goal: Goal
    image: str | None = None

    def __str__(self) -> str:
        return str(self.goal)


def goal_targets_of(manifest: PoisonManifest, pairs: PairDataset) -> tuple[GoalTarget, ...]:
    """List a poisoned set's goals, each with its single target image for attack I.

    Args:
        manifest: The manifest of the poisoned set.
        pairs: The data, for their classes.

    Raises:
        InputError: If a goal does not match the data.
    """
    images = manifest.target_images
    return tuple(
        GoalTarget(Goal.parse(goal, pairs.classes), images.get(goal)) for goal in manifest.goals
    )


@dataclass(frozen=True)
class TestSet:
    """The test part of a data set.

    Attributes:
        pairs: The test pairs; never poisoned.
        gallery: Indices of all test images, shape `(G,)`.
    """

    # tells pytest that this is no test class
    __test__ = False

    pairs: PairDataset
    gallery: IntArray

    @classmethod
    def of(cls, pairs: PairDataset) -> TestSet:
        """Extract the test part of a data set.

        Raises:
            InputError: If there is no test image or no test caption.
        """
        test = pairs.select(split="test", poisoned=False)
        gallery = pairs.images.indices(split="test")
        if not len(gallery) or not len(test):
            raise InputError("the data have no test images with captions to measure on")
        return cls(test, gallery)

    def queries(self, label: str) -> IntArray:
        """Return the rows of the test captions of a class, shape `(q,)`.

        Raises:
            InputError: If the class is unknown or has no test caption.
        """
        code = self.pairs.images.class_code(label)
        rows = np.flatnonzero(self.pairs.images.class_codes[self.pairs.image] == code)
        if not len(rows):
            raise InputError(f"class {label!r} has no test caption to search with")
        return rows.astype(np.int32)

    def other_queries(self, label: str) -> IntArray:
        """Return the rows of the test captions of all other classes, shape `(q,)`."""
        code = self.pairs.images.class_code(label)
        other = self.pairs.images.class_codes[self.pairs.image] != code
        return np.flatnonzero(other).astype(np.int32)

    def targets(self, label: str) -> BoolArray:
        """Return a mask of the gallery images of a class, shape `(G,)`.

        Raises:
            InputError: If the class is unknown or has no test image.
        """
        code = self.pairs.images.class_code(label)
        mask = self.pairs.images.class_codes[self.gallery] == code
        if not mask.any():
            raise InputError(f"class {label!r} has no test image, so it cannot be a target")
        return np.asarray(mask)

    def target_set(self, goal_target: GoalTarget) -> BoolArray:
        """Return a mask of the gallery images in a target set, shape `(G,)`.

        Raises:
            InputError: If the class has no test image, or the single target image is not in the gallery.
        """
        if goal_target.image is None:
            return self.targets(goal_target.goal.target)
        mask = np.asarray(self.pairs.images.ids[self.gallery] == goal_target.image, dtype=bool)
        if not mask.any():
            raise InputError(
                f"goal {goal_target.goal}: target image {goal_target.image!r} is not in the gallery of test images, "
                "so it cannot be found: name an image of split test"
            )
        return mask

    def check_goal(self, goal: Goal) -> None:
        """Raise before training if a goal cannot be measured."""
        self.check(GoalTarget(goal))

    def check(self, goal_target: GoalTarget) -> None:
        """Raise before training if a goal target cannot be measured."""
        self.queries(goal_target.goal.original)
        self.target_set(goal_target)

    @property
    def caption_class(self) -> IntArray:
        """Class index of each test caption, or -1 without a class; shape `(T,)`."""
        return self.pairs.images.class_codes[self.pairs.image]

    @property
    def caption_image(self) -> npt.NDArray[np.int64]:
        """Position in the gallery of each caption's image, shape `(T,)`."""
        return np.searchsorted(self.gallery, self.pairs.image).astype(np.int64)


@dataclass(frozen=True)
class TestEmbeddings:
    """One model's embeddings of the test part; every metric is computed from them.

    Attributes:
        images: Embeddings of the gallery, shape `(G, d)`.
        texts: Embeddings of the test captions, shape `(T, d)`.
    """

    __test__ = False

    images: Embeddings
    texts: Embeddings

    @classmethod
    def of(
        cls,
        encoder: DualEncoder,
        inputs: PairInputs,
        test: TestSet,
        progress: Progress | None = None,
    ) -> TestEmbeddings:
        """Embed the gallery and the captions once."""
        captions = test.pairs.captions
        # equal captions are embedded once
        images, texts = len(test.gallery), len(set(captions))

        def shifted(offset: int) -> Progress | None:
            if progress is None:
                return None
            return lambda done, _: progress(offset + done, images + texts)

        return cls(
            embed_images(encoder, inputs, test.gallery, progress=shifted(0)),
            embed_texts(encoder, inputs, captions, progress=shifted(images)),
        )

    def ranks(
        self, queries: IntArray, targets: BoolArray
    ) -> tuple[npt.NDArray[np.int64], BoolArray]:
        """Compute exact ranks of the best target for some captions, and whether they tie, in bounded memory."""
        return embedding_ranks(self.texts[queries], self.images, targets)

    def similarity(self, queries: IntArray) -> Embeddings:
        """Compute cosine similarities of some captions to the whole gallery, shape `(q, G)`."""
        return np.asarray(self.texts[queries] @ self.images.T)


def drift_between(before: TestEmbeddings, after: TestEmbeddings) -> Drift:
    """Compute the mean cosine distance between two models' embeddings of the same inputs (figure 1), in [0, 2]."""
    return Drift(text=drift(before.texts, after.texts), image=drift(before.images, after.images))
