"""Repairs by further training: on clean pairs, and on the pairs that a trace keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmpoison.base.options import options
from mmpoison.defenses.catalogue import DEFENSES, DefenseKind, TrainingServices, require_clean
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Rows
from mmpoison.pairs.table import PairDataset
from mmpoison.training.loop import TrainingResult, finetune
from mmpoison.training.objective import Embedded, Objective, contrastive_loss
from mmpoison.training.settings import TrainingSettings

# -- Post-training defence: fine-tune the checkpoint on clean pairs.


@DEFENSES.register("clean-finetune")
@options
class CleanFinetune:
    """Fine-tune a poisoned checkpoint on pairs known to be clean (section 6.2, "post-training defense").

    Repairs that minimise another loss on the same clean pairs are subclasses with their own `objective`.
    """

    name: ClassVar[str] = "clean-finetune"
    kind: ClassVar[DefenseKind] = "post-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.2"
    summary: ClassVar[str] = "fine-tunes a suspect checkpoint on clean pairs"
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = (
        "needs clean pairs and some training steps; loses utility where the clean pairs differ from the data"
    )

    settings: TrainingSettings = Field(
        kw_only=False,
        description="training settings; a larger learning rate removes more of the poison and more of the "
        "utility",
    )

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
