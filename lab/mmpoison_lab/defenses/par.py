"""PAR (Perturb and Recover): move away from the suspect while learning from clean pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmpoison.base import options
from mmpoison.defenses import DEFENSES, CleanFinetune
from mmpoison.models import Rows
from mmpoison.training import Embedded, Objective, contrastive_loss

FARTHEST = 4.0
"""The largest squared distance of two unit vectors."""

GREY = 115
"""An erased square: about the mean colour that CLIP subtracts."""


@dataclass(frozen=True)
class NoiseAndErasing:
    """PAR's view of an image: Gaussian noise, and a small grey square; each with a chance of its own.

    The release clips the noise to positive values before it adds it, so that it only brightens; here it is symmetric.

    Attributes:
        noise: Standard deviation of the noise, as a share of the range of a pixel.
        chance: Chance of the noise, and of the square, in [0, 1].
        least: Smallest area of the square, as a share of the image.
        most: Largest area.
    """

    noise: float = 0.2
    chance: float = 0.5
    least: float = 0.005
    most: float = 0.01

    def __call__(self, pixels: Tensor, stream: np.random.Generator) -> Tensor:
        """Return changed pixels, shape `(n, side, side, 3)`, uint8."""
        count, side = pixels.shape[:2]
        noisy, erased = stream.random((2, count)) < self.chance
        changed = pixels.clone()
        drawn = torch.Generator().manual_seed(int(stream.integers(1 << 62)))
        rows = torch.from_numpy(np.flatnonzero(noisy))
        noise = torch.randn((len(rows), *pixels.shape[1:]), generator=drawn) * (255 * self.noise)
        changed[rows] = (pixels[rows] + noise).round().clamp(0, 255).to(torch.uint8)
        for row in np.flatnonzero(erased):
            width = max(1, round(side * float(np.sqrt(stream.uniform(self.least, self.most)))))
            top, left = stream.integers(0, side - width + 1, 2)
            changed[row, top : top + width, left : left + width] = GREY
        return changed


class PerturbAndRecover(Objective):
    """Contrastive loss - 1/2 (|d image|^2 + |d text|^2) on perturbed images and their captions.

    |d|^2 is the mean over the batch of the squared Euclidean distance between the unit embeddings of the model in
    training and of the suspect, of the same input, in [0, 4]. A term whose mean exceeds `tau` is 0, and so is its
    gradient. The temperature is fixed. So does the release.

    Args:
        tau: The threshold.
    """

    name: ClassVar[str] = "par"
    reference: ClassVar[bool] = True

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.image_views = (NoiseAndErasing(),)

    def settings(self) -> dict[str, Any]:
        """Return the threshold."""
        return {"tau": self.tau}

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch; see the class."""
        (image,), (text,) = batch.image, batch.text
        (image_before,), (text_before,) = batch.reference_image, batch.reference_text
        fit = contrastive_loss(text, image, batch.scale.detach())
        away = squared_distance(image, image_before, self.tau)
        return fit - (away + squared_distance(text, text_before, self.tau)) / 2


def squared_distance(embeddings: Tensor, before: Tensor, tau: float) -> Tensor:
    """Compute the mean squared distance of rows; 0 where it exceeds `tau`.

    Args:
        embeddings: Unit rows, shape `(n, d)`.
        before: The same of the suspect, shape `(n, d)`.
        tau: The threshold.

    >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> float(squared_distance(one, other, tau=2.0)), float(squared_distance(one, other, tau=1.9))
    (2.0, 0.0)
    """
    distance = (embeddings - before).square().sum(dim=1).mean()
    return torch.where(distance > tau, torch.zeros_like(distance), distance)


@DEFENSES.register("par")
@options
class Par(CleanFinetune):
    """Repair a suspect by moving its embeddings away from where they were while the clean pairs hold it (PAR).

    Where only projections train, noise on the features of the frozen trunks takes the place of noise on the pixels: the
    record of the training says "views by feature noise". A training with a frozen image encoder is refused.

    Raises:
        InputError: If tau is out of range.
    """

    name: ClassVar[str] = "par"
    source: ClassVar[str] = (
        "Singh, Croce and Hein, Perturb and Recover: Fine-tuning for Effective Backdoor Removal from CLIP, 2024"
    )
    summary: ClassVar[str] = (
        "moves embeddings away from the suspect's while it trains on clean pairs"
    )
    cost: ClassVar[str] = (
        "needs clean pairs and some training steps, each slower, because the suspect also embeds the batch"
    )

    tau: Annotated[
        float,
        Field(
            gt=0,
            lt=FARTHEST,
            description="mean squared distance from the suspect to reach; a larger one removes more of the "
            "poison and of the utility",
        ),
    ] = 2.15

    def objective(self) -> Objective:
        """Return what is minimised."""
        return PerturbAndRecover(self.tau)
