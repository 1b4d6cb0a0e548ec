"""PAR (Perturb and Recover): moves away from the suspect while learning from clean pairs."""

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
"""Largest squared distance of two unit vectors."""

GREY = 115
"""Colour of an erased square: about the mean that CLIP subtracts."""


@dataclass(frozen=True)
class NoiseAndErasing:
    """PAR's view of an image: Gaussian noise and a small grey square, each applied with a given probability.

    The release clips the noise to positive values, so it only brightens; here the noise is symmetric.

    Attributes:
        noise: Standard deviation of the noise, as a share of the pixel range.
        chance: Probability of the noise, and of the square, in [0, 1].
        least: Minimum area of the square, as a share of the image.
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

    |d|^2 is the mean over the batch of the squared Euclidean distance between unit embeddings of the same input under
    the trained model and the suspect, in [0, 4]. As in the release, a term whose mean exceeds `tau` is 0, with zero
    gradient, and the temperature is fixed.

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
    """Compute the mean squared distance of rows, or 0 if it exceeds `tau`.

    Args:
        embeddings: Unit rows, shape `(n, d)`.
        before: The suspect's embeddings, shape `(n, d)`.
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
    """Repair a suspect by moving its embeddings away while clean pairs preserve its utility (PAR).

    If only projections train, noise on the frozen trunks' features replaces noise on pixels, and the training record
    says "views by feature noise". Training with a frozen image encoder is refused.

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
        """Return the loss to minimise."""
        return PerturbAndRecover(self.tau)
