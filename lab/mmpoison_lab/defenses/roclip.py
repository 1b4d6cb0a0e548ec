"""In-training defence: contrasts images with captions of other pairs in every second epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Unpack

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmpoison.base import generator, options
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
    finetune,
)
from mmpoison_lab.synonyms import EditWords


@DEFENSES.register("roclip")
@options
class RoClip:
    """In every second epoch, replace each caption with the caption nearest to the image in a random bank.

    The bank is a random part of the captions, drawn for each such epoch and embedded at its start. It contains a given
    false caption only with the probability of its size, and a true caption of the class is nearer to the image, so the
    image is separated from its false caption. In these epochs the text encoder gets no gradient. All epochs use random
    views instead of the images and captions themselves.

    Bank epochs are the first, the third, and so on: a fine-tune starts from aligned encoders, and its first epoch would
    learn the poison. The release's bank contains the captions of the latest batches; here an epoch's bank depends only
    on the seed.

    If only projections train, views are noise on the frozen trunks' features
    (`mmpoison.training.objective.FeatureNoise`), and the training record says so. The image encoder or its projection
    must train.
    """

    name: ClassVar[str] = "roclip"
    kind: ClassVar[DefenseKind] = "in-training"
    source: ClassVar[str] = "RoCLIP: Yang, Gao and Mirzasoleiman, NeurIPS 2023"
    summary: ClassVar[str] = (
        "replaces captions by the nearest ones from a random bank in every second epoch"
    )
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = (
        "an embedding pass in every second epoch; the model learns less from true captions"
    )

    bank: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="size of the bank as a share of the pairs; a larger one has better captions for each "
            "image, but more poison",
        ),
    ] = 0.02
    every: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_EPOCHS,
            description="replace captions in every n-th epoch; a smaller n separates more false captions "
            "from images, but learns less from true ones",
        ),
    ] = 2

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
        objective = BankObjective(self.bank, self.every)
        image, text = ROLES[settings.trainable]
        if image == "frozen" and text != "frozen":
            raise InputError(
                f"roclip with trainable {settings.trainable!r}: the text encoder gets no gradient in one of every "
                f"{self.every} epochs, so with a frozen image encoder nothing would train: set trainable to both, "
                "image or heads"
            )
        # embeddings of a frozen encoder have no views
        if text == "frozen":
            objective.text_views = (None,)
        return finetune(
            encoder, pairs, inputs, settings, seed=seed, objective=objective, **services
        )


class BankObjective(Objective):
    """The contrastive loss, which in some epochs uses the nearest captions of a bank.

    Args:
        share: Size of the bank, as a share of the pairs.
        every: Use a bank in every n-th epoch.

    Attributes:
        bank: Unit embeddings of the bank's captions, shape `(m, d)`; empty in an ordinary epoch.
    """

    name = "roclip"
    image_views: tuple[ImageView | None, ...] = (CropFlipColour(),)
    text_views: tuple[TextView | None, ...] = (EditWords(),)

    def __init__(self, share: float, every: int) -> None:
        self.share, self.every = share, every
        self.bank = torch.zeros((0, 0))

    def settings(self) -> dict[str, Any]:
        """Return the parameters."""
        return {"bank": self.share, "every": self.every}

    def begin_epoch(self, start: EpochStart) -> None:
        """Draw and embed the bank of this epoch."""
        if start.epoch % self.every:
            self.bank = torch.zeros((0, 0))
            return
        stream = generator(start.seed, f"roclip/bank/{start.epoch}")
        size = min(start.pairs, max(2, round(self.share * start.pairs)))
        chosen = np.sort(stream.choice(start.pairs, size, replace=False))
        _, text = start.embed()
        self.bank = text[torch.from_numpy(chosen)]

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch."""
        (image,), (text,) = batch.image, batch.text
        if len(self.bank):
            text = nearest(image, self.bank.to(image.device))
        return contrastive_loss(text, image, batch.scale)

    def state(self) -> dict[str, Tensor]:
        """Return the bank."""
        return {"bank": self.bank}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the bank."""
        self.bank = state["bank"]


def nearest(image: Tensor, bank: Tensor) -> Tensor:
    """For each image, return the caption of a bank with the largest cosine.

    Args:
        image: Unit embeddings of images, shape `(n, d)`.
        bank: Unit embeddings of captions, shape `(m, d)`.

    Returns:
        Shape `(n, d)`, without a gradient.
    """
    with torch.no_grad():
        return bank[(image @ bank.T).argmax(dim=1)]
