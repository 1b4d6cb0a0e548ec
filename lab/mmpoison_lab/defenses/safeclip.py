"""In-training defence: contrasts image and caption only for pairs that the model itself finds safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Unpack

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmpoison.base import options
from mmpoison.defenses import DEFENSES, DefenseKind, TrainingServices
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, PairInputs, Rows
from mmpoison.pairs import PairDataset
from mmpoison.training import (
    MOST_EPOCHS,
    ROLES,
    CropFlipColour,
    Embedded,
    EpochStart,
    ImageView,
    Objective,
    TextView,
    TrainingResult,
    TrainingSettings,
    contrastive_loss,
    epochs_of,
    finetune,
)
from mmpoison_lab.defenses.two_gaussians import fit_two_gaussians
from mmpoison_lab.synonyms import EditWords

PAPER_EPOCHS, PAPER_WARMUP, PAPER_GROWTH = 32, 5, 0.01
"""Epochs of the paper's training, its unimodal epochs, and growth of the safe part per epoch."""


@DEFENSES.register("safeclip")
@options
class SafeClip:
    """First train the two encoders separately, then contrast image and caption only for safe pairs.

    In the first epochs, each image is contrasted with a view of itself and each caption with an edit of itself, so
    images and captions never meet. One epoch follows with the contrastive loss of all pairs at 1% of the learning rate.
    At the start of each later epoch, two Gaussians are fitted to the model's cosines of all pairs. Pairs with a
    posterior probability of at least 0.9 for the upper Gaussian are safe, and so is a further share, which grows every
    epoch, in order of cosine. Safe pairs of a batch use the contrastive loss, all others the two unimodal losses; the
    losses are added.

    The paper trains for 32 epochs from random weights: 5 unimodal epochs, 1 slow epoch, and growth by 1% per epoch to
    85%. A fine-tune is shorter. By default the share of unimodal epochs is the same (10 epochs: 2; up to 3 epochs:
    none), the slow epoch is left out if there are none, and the total growth is the same. The settings define the
    number of steps. Unlike in the paper, the two batches of a step, safe pairs and others, are parts of one batch, so
    that the number of steps is that of ordinary training. A view's negatives are the other images of the batch, without
    a pool of nearest neighbours.

    An encoder that does not train has no unimodal loss, which would have no effect. If only projections train, views
    are noise on the frozen trunks' features (`mmpoison.training.objective.FeatureNoise`), and the training record says
    so.
    """

    name: ClassVar[str] = "safeclip"
    kind: ClassVar[DefenseKind] = "in-training"
    source: ClassVar[str] = "SafeCLIP: Yang, Gao and Mirzasoleiman, ICML 2024"
    summary: ClassVar[str] = (
        "trains the encoders separately, then contrasts image and caption only for pairs with large cosines"
    )
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = (
        "two passes of each encoder per step, one embedding pass per epoch; hard clean pairs are not learned"
    )

    warmup_epochs: Annotated[
        int | None,
        Field(
            ge=0,
            le=MOST_EPOCHS,
            description="number of unimodal epochs (default: 5 of 32); more separate poison better, but "
            "leave fewer to learn from pairs",
        ),
    ] = None
    clip_epochs: Annotated[
        int | None,
        Field(
            ge=0,
            le=MOST_EPOCHS,
            description="number of contrastive epochs on all pairs (default: 1 after unimodal ones); more "
            "align the encoders better, but learn more poison",
        ),
    ] = None
    clip_rate: Annotated[
        float,
        Field(
            gt=0,
            description="factor of the learning rate in these epochs; a larger one aligns the encoders "
            "faster, but learns more poison",
        ),
    ] = 0.01
    safe: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="posterior probability at which a pair is safe; a smaller one trusts more pairs, "
            "poisoned and clean",
        ),
    ] = 0.9
    grow: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="share of all pairs that become safe with each epoch (default: 0.32 / epochs); a "
            "larger one trusts more pairs",
        ),
    ] = None
    most: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="maximum share of safe pairs; a larger one trusts more pairs in the end",
        ),
    ] = 0.85

    def apply(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        inputs: PairInputs,
        settings: TrainingSettings,
        *,
        seed: int,
        **services: Unpack[TrainingServices],
    ) -> TrainingResult:
        """Train a copy of an encoder; see `RobustTraining`."""
        objective = self.objective(epochs_of(len(pairs), settings))
        image, text = ROLES[settings.trainable]
        if image == "frozen":
            objective.image_views = (None,)
        if text == "frozen":
            objective.text_views = (None,)
        return finetune(
            encoder, pairs, inputs, settings, seed=seed, objective=objective, **services
        )

    def objective(self, epochs: int) -> SafeObjective:
        """Return the objective for a training with a given number of epochs.

        Raises:
            InputError: If no epoch is left for safe pairs.
        """
        warmup, clip = self.warmup_epochs, self.clip_epochs
        if warmup is None:
            warmup = round(epochs * PAPER_WARMUP / PAPER_EPOCHS)
        if clip is None:
            clip = 1 if warmup else 0
        if epochs and warmup + clip >= epochs:
            raise InputError(
                f"safeclip: {warmup} unimodal epochs (warmup_epochs) and {clip} slow ones (clip_epochs) leave none of "
                f"{epochs} for safe pairs: give more epochs, or fewer of these"
            )
        grow = PAPER_GROWTH * PAPER_EPOCHS / max(epochs, 1) if self.grow is None else self.grow
        return SafeObjective(warmup, clip, self.clip_rate, self.safe, grow, self.most)


class SafeObjective(Objective):
    """The contrastive loss of safe pairs, plus the unimodal losses of all others.

    In a unimodal epoch no pair is safe; in a slow epoch all are.

    Args:
        warmup: Unimodal epochs.
        clip: Epochs after them in which all pairs are safe.
        clip_rate: Factor of their learning rate.
        safe: Posterior probability from which a pair is safe.
        grow: Additional share of safe pairs per epoch after the first split.
        most: Largest share after growth.

    Attributes:
        is_safe: Mask of the safe pairs in this epoch, shape `(N,)`.
    """

    name = "safeclip"
    image_views: tuple[ImageView | None, ...] = (None, CropFlipColour())
    text_views: tuple[TextView | None, ...] = (None, EditWords())

    def __init__(
        self, warmup: int, clip: int, clip_rate: float, safe: float, grow: float, most: float
    ) -> None:
        self.warmup, self.clip, self.clip_rate = warmup, clip, clip_rate
        self.safe, self.grow, self.most = safe, grow, most
        self.is_safe = torch.zeros(0, dtype=torch.bool)

    def settings(self) -> dict[str, Any]:
        """Return the parameters."""
        names = ("warmup", "clip", "clip_rate", "safe", "grow", "most")
        return {name: getattr(self, name) for name in names}

    def rate(self, epoch: int) -> float:
        """Return the learning rate factor, which is small in slow epochs."""
        slow = self.warmup <= epoch < self.warmup + self.clip
        return self.clip_rate if slow else 1.0

    def begin_epoch(self, start: EpochStart) -> None:
        """Choose the safe pairs."""
        first = self.warmup + self.clip
        if start.epoch < first:
            self.is_safe = torch.full((start.pairs,), start.epoch >= self.warmup)
            return
        image, text = start.embed()
        cosines = (image.double() * text.double()).sum(dim=1).numpy()
        growth = self.grow * (start.epoch - first)
        self.is_safe = torch.from_numpy(safe_pairs(cosines, self.safe, growth, self.most))

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch."""
        safe = self.is_safe[torch.from_numpy(pairs)]
        total = batch.scale * 0
        if safe.any():
            total = total + contrastive_loss(batch.text[0][safe], batch.image[0][safe], batch.scale)
        if not safe.all():
            total = total + unimodal_loss(batch, ~safe)
        return total

    def state(self) -> dict[str, Tensor]:
        """Return the mask of safe pairs."""
        return {"is_safe": self.is_safe}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the mask of safe pairs."""
        self.is_safe = state["is_safe"]


def unimodal_loss(batch: Embedded, chosen: Tensor) -> Tensor:
    """Compute the mean of two contrastive losses: images with their views, and captions with theirs.

    Args:
        batch: Two embeddings of each image and caption; a side with one embedding, whose encoder does not train, is
            left out.
        chosen: The pairs to contrast with each other, bool, shape `(n,)`.
    """
    losses = [
        contrastive_loss(side[1][chosen], side[0][chosen], batch.scale)
        for side in (batch.image, batch.text)
        if len(side) == 2
    ]
    return torch.stack(losses).mean()


def safe_pairs(
    cosines: np.ndarray[Any, np.dtype[np.float64]], safe: float, growth: float, most: float
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Choose the pairs with the largest cosines.

    Args:
        cosines: Cosine of image and caption of each pair, shape `(N,)`.
        safe: Posterior probability of the upper of two Gaussians from which a pair is safe.
        growth: Additional share of all pairs that is safe.
        most: Largest share after growth.

    Returns:
        Mask of safe pairs, shape `(N,)`; all of them if all cosines are equal.
    """
    if np.ptp(cosines) == 0:
        return np.ones(len(cosines), dtype=np.bool_)
    sure = fit_two_gaussians(cosines).upper(cosines) >= safe
    grown = min(int(sure.sum()) + round(growth * len(cosines)), round(most * len(cosines)))
    chosen = np.asarray(sure)
    # the posterior never falls with the cosine, so the next pairs are those with the next largest cosines
    chosen[np.argsort(-cosines, kind="stable")[:grown]] = True
    return chosen
