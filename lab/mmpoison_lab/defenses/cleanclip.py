"""CleanCLIP: fine-tunes on clean pairs, and pulls together views of an image, and views of a caption."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmpoison.base import options
from mmpoison.defenses import DEFENSES, CleanFinetune
from mmpoison.models import Rows
from mmpoison.training import (
    CropFlipColour,
    Embedded,
    Objective,
    contrastive_loss,
)
from mmpoison_lab.synonyms import EditWords


class CleanClipLoss(Objective):
    """Contrastive loss + weight x (InfoNCE of images and their views + InfoNCE of captions and their views) / 2.

    Args:
        weight: Weight of the second part.
    """

    name: ClassVar[str] = "cleanclip"

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.image_views = (None, CropFlipColour())
        self.text_views = (None, EditWords())

    def settings(self) -> dict[str, Any]:
        """Return the weight."""
        return {"weight": self.weight}

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch; see the class."""
        (image, image_view), (text, text_view) = batch.image, batch.text
        fit = contrastive_loss(text, image, batch.scale)
        alike = info_nce(image, image_view, batch.scale) + info_nce(text, text_view, batch.scale)
        return fit + self.weight * alike / 2


def info_nce(embeddings: Tensor, views: Tensor, scale: Tensor) -> Tensor:
    """Compute the mean cross-entropy of finding the view of each row among the views of all rows.

    Args:
        embeddings: Unit rows, shape `(n, d)`.
        views: Unit rows, shape `(n, d)`; row i is a view of row i.
        scale: exp(tau), a scalar.

    >>> e = torch.ones(4, 1)
    >>> round(float(info_nce(e, e, torch.tensor(1.0))), 4)  # log(4)
    1.3863
    """
    logits = scale * embeddings @ views.T
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


@DEFENSES.register("cleanclip")
@options
class CleanClip(CleanFinetune):
    """Fine-tune a suspect on clean pairs with losses within images and within captions as well (CleanCLIP).

    A view of an image is a random crop, randomly mirrored, with changed colours; a view of a caption is edited by EDA.
    Both are drawn again in every step, whereas the release draws them once before training. If only projections train,
    noise on the frozen trunks' features replaces them, and the training record says "views by feature noise". Training
    with one encoder frozen is refused.

    Raises:
        InputError: If the weight is out of range.
    """

    name: ClassVar[str] = "cleanclip"
    source: ClassVar[str] = (
        "Bansal et al., CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning, ICCV 2023"
    )
    summary: ClassVar[str] = (
        "fine-tunes a suspect checkpoint on clean pairs and on augmented images and captions"
    )
    cost: ClassVar[str] = (
        "needs clean pairs and some training steps, each about twice as long, for the augmented views"
    )

    weight: Annotated[
        float,
        Field(
            ge=0,
            description="weight of the losses within each modality, relative to the contrastive loss; a "
            "larger one fits the pairs less",
        ),
    ] = 1.0

    def objective(self) -> Objective:
        """Return the loss to minimise."""
        return CleanClipLoss(self.weight)
