"""Repairs that continue training: on clean pairs, or on the pairs that a trace keeps."""

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

    Subclasses minimise a different loss on the same clean pairs by overriding `objective`.
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
        """Return the loss to minimise; None for the contrastive loss."""
        return None

    def refuse(self, pairs: PairDataset) -> None:
        """Raise InputError for pairs that must not be trained on."""
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


# -- Fine-tuning if the poisoned pairs are known: also unlearns their associations.


class UnlearnLoss(Objective):
    """Contrastive loss of the remaining pairs + exp(tau) x the mean excess of cosine within groups of false pairs.

    Within a group, every caption is compared with every image: the group taught an association between a topic and a
    kind of images, and so did similar pairs that were not found. The excess is the part above the mean cosine of
    captions and images of the kept pairs in the same batch; below that mean there is no gradient.

    Args:
        group: Group index of each training pair, from 0, or -1 for kept pairs; shape `(N,)`.
    """

    name: ClassVar[str] = "unlearn"

    def __init__(self, group: npt.NDArray[np.int64]) -> None:
        self._group = torch.from_numpy(group)

    def settings(self) -> dict[str, Any]:
        """Return a digest of the group of each pair."""
        return {"groups": hashlib.sha256(self._group.numpy().tobytes()).hexdigest()}

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch; see the class."""
        group = self._group[pairs]
        (image,), (text,) = batch.image, batch.text
        stays, false = group < 0, group >= 0
        fit = usual = batch.scale.new_zeros(())  # the batch contains only false pairs
        if stays.any():
            fit = contrastive_loss(text[stays], image[stays], batch.scale)
            usual = (text[stays] @ image[stays].T).mean().detach()
        if not false.any():
            return fit
        excess = F.relu(text[false] @ image[false].T - usual)
        group = group[false].to(excess.device)
        return fit + batch.scale.detach() * excess[group[:, None] == group].mean()


class Unlearn(CleanFinetune):
    """Fine-tune a suspect on the pairs that a trace keeps, and push apart the groups it found (`UnlearnLoss`).

    Args:
        settings: How to fine-tune.
        group: Group index of each pair given to `apply`, as for `UnlearnLoss`.
    """

    def __init__(self, settings: TrainingSettings, group: npt.NDArray[np.int64]) -> None:
        super().__init__(settings)
        self._group = group

    def objective(self) -> Objective:
        """Return the loss to minimise."""
        return UnlearnLoss(self._group)

    def refuse(self, pairs: PairDataset) -> None:
        """Accept any pairs: the kept pairs are not known to be clean."""
