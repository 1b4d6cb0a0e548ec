"""Repairs by further training on clean pairs: plain, CleanCLIP, and PAR."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mmpoison.base.option_checks import check_number
from mmpoison.defenses.catalogue import DEFENSES, Kind, TrainingServices, require_clean
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Rows
from mmpoison.pairs.table import PairDataset
from mmpoison.training.loop import TrainingResult, finetune
from mmpoison.training.objective import (
    CropFlipColour,
    EditWords,
    Embedded,
    Objective,
    contrastive_loss,
)
from mmpoison.training.settings import TrainingSettings

# -- Post-training defence: fine-tune the checkpoint on clean pairs.


@DEFENSES.register("clean-finetune")
class CleanFinetune:
    """Fine-tune a poisoned checkpoint on pairs known to be clean (section 6.2, "post-training defense").

    Repairs that minimise another loss on the same clean pairs are subclasses with their own `objective`.

    Args:
        settings: How to fine-tune; the paper takes a small learning rate and sees the effect within 50 steps.
    """

    name: ClassVar[str] = "clean-finetune"
    kind: ClassVar[Kind] = "post-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.2"
    summary: ClassVar[str] = "fine-tunes a suspect checkpoint on clean pairs"
    parameters: ClassVar[Mapping[str, str]] = {
        "settings": "how to fine-tune: a larger learning rate forgets more of the poison, and more of the rest"
    }
    cost: ClassVar[str] = (
        "needs clean pairs and some steps of training; utility is lost where the clean pairs are of another kind"
    )

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def objective(self) -> Objective | None:
        """Return what is minimised; None for the contrastive loss."""
        return None

    def refuse(self, pairs: PairDataset) -> None:
        """Raise InputError for pairs that are not to be trained on."""
        require_clean(pairs)

    def apply(
        self,
        encoder: DualEncoder,
        clean_pairs: PairDataset,
        inputs: PairInputs,
        *,
        seed: int,
        **services: Unpack[TrainingServices],
    ) -> TrainingResult:
        """Return a fine-tuned copy of an encoder; see `ModelRepair`."""
        self.refuse(clean_pairs)
        services["name"] = services.get("name") or f"{encoder.name}-sterilized"
        return finetune(
            *(encoder, clean_pairs, inputs, self.settings),
            seed=seed,
            objective=self.objective(),
            **services,
        )


# -- The same where the pairs that taught the poison are known: what they taught is pushed out.


class UnlearnLoss(Objective):
    """Contrastive loss of the pairs that stay + exp(tau) x the mean excess of cosine within groups of false pairs.

    In a group every caption is compared with every image: the group taught the link of a topic with a kind of images,
    and pairs like its own that nobody found taught it too. The excess is what is above the mean cosine of captions and
    images of the pairs that stay, in the same batch; below it there is no gradient.

    Args:
        group: The group of each training pair, from 0; -1 for one that stays. Shape `(N,)`.
    """

    name: ClassVar[str] = "unlearn"

    def __init__(self, group: npt.NDArray[np.int64]) -> None:
        self._group = torch.from_numpy(group)

    def settings(self) -> dict[str, Any]:
        """Return which pairs are in which group, as a digest."""
        return {"groups": hashlib.sha256(self._group.numpy().tobytes()).hexdigest()}

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch; see the class."""
        group = self._group[pairs]
        (image,), (text,) = batch.image, batch.text
        stays, false = group < 0, group >= 0
        fit = usual = batch.scale.new_zeros(())  # of a batch of false pairs alone
        if stays.any():
            fit = contrastive_loss(text[stays], image[stays], batch.scale)
            usual = (text[stays] @ image[stays].T).mean().detach()
        if not false.any():
            return fit
        excess = F.relu(text[false] @ image[false].T - usual)
        group = group[false].to(excess.device)
        return fit + batch.scale.detach() * excess[group[:, None] == group].mean()


class Unlearn(CleanFinetune):
    """Fine-tune a suspect on the pairs that a trace keeps, and push what it found apart (`UnlearnLoss`).

    Args:
        settings: How to fine-tune.
        group: Of each pair that `apply` gets, as for `UnlearnLoss`.
    """

    def __init__(self, settings: TrainingSettings, group: npt.NDArray[np.int64]) -> None:
        super().__init__(settings)
        self._group = group

    def objective(self) -> Objective:
        """Return what is minimised."""
        return UnlearnLoss(self._group)

    def refuse(self, pairs: PairDataset) -> None:
        """Take any pairs: what stays is not known to be clean."""


# -- Post-training defence CleanCLIP: fine-tune on clean pairs, and pull views of an image, and of a
# caption, together.


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
class CleanClip(CleanFinetune):
    """Fine-tune a suspect on clean pairs with losses within images and within captions as well (CleanCLIP).

    A view of an image is a random part of it, mirrored or not, in other colours; a view of a caption is edited by EDA.
    Both are drawn again in every step; the release draws them once, before the training. Where only projections train,
    noise on the features of the frozen trunks takes their place: the record of the training says "views by feature
    noise". A training with one encoder frozen is refused.

    Args:
        settings: How to fine-tune.
        weight: Weight of the losses within images and captions, from 0; that of the contrastive loss is 1.

    Raises:
        InputError: If the weight is out of range.
    """

    name: ClassVar[str] = "cleanclip"
    source: ClassVar[str] = (
        "Bansal et al., CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning, ICCV 2023"
    )
    summary: ClassVar[str] = (
        "fine-tunes a suspect checkpoint on clean pairs, and on views of images and of captions"
    )
    parameters: ClassVar[Mapping[str, str]] = {
        **CleanFinetune.parameters,
        "weight": "a larger one separates images from captions more, and fits the pairs less",
    }
    cost: ClassVar[str] = (
        "needs clean pairs and some steps of training, each about twice as long: a view of everything is embedded too"
    )

    def __init__(self, settings: TrainingSettings, weight: float = 1.0) -> None:
        if weight != 0:
            check_number("weight", weight, "0 or a positive number", 0)
        super().__init__(settings)
        self.weight = weight

    def objective(self) -> Objective:
        """Return what is minimised."""
        return CleanClipLoss(self.weight)


# -- Post-training defence PAR (Perturb and Recover): move away from the suspect while learning from clean
# pairs.


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
class Par(CleanFinetune):
    """Repair a suspect by moving its embeddings away from where they were while the clean pairs hold it (PAR).

    Where only projections train, noise on the features of the frozen trunks takes the place of noise on the pixels: the
    record of the training says "views by feature noise". A training with a frozen image encoder is refused.

    Args:
        settings: How to fine-tune.
        tau: Mean squared distance from the suspect at which images, or captions, are far enough, in (0, 4). The
            published value belongs to ten epochs on 250,000 pairs. A short fine-tune may not get so far: 50 steps of
            both projections on OpenMoji scenes stayed below 0.5.

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
    parameters: ClassVar[Mapping[str, str]] = {
        **CleanFinetune.parameters,
        "tau": "a larger one moves farther: it forgets more of the poison, and more of the rest",
    }
    cost: ClassVar[str] = (
        "needs clean pairs and some steps of training, each slower than a plain one: the suspect embeds the batch too"
    )

    def __init__(self, settings: TrainingSettings, tau: float = 2.15) -> None:
        check_number("tau", tau, "a squared distance of unit vectors, between 0 and 4", 0, FARTHEST)
        super().__init__(settings)
        self.tau = tau

    def objective(self) -> Objective:
        """Return what is minimised."""
        return PerturbAndRecover(self.tau)
