"""Post-training defence: fine-tune the checkpoint on clean pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Unpack

from mmpoison.defenses.catalogue import DEFENSES, Kind, TrainingServices, require_clean
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import PairDataset
from mmpoison.training.loop import TrainingResult, finetune
from mmpoison.training.objective import Objective
from mmpoison.training.settings import TrainingSettings


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
        "clean pairs and some steps of training; utility where the clean pairs are of another kind"
    )

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def objective(self) -> Objective | None:
        """Return what is minimised; None for the contrastive loss."""
        return None

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
        require_clean(clean_pairs)
        services["name"] = services.get("name") or f"{encoder.name}-sterilized"
        return finetune(
            *(encoder, clean_pairs, inputs, self.settings),
            seed=seed,
            objective=self.objective(),
            **services,
        )
