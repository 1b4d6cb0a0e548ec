"""Post-training defence: fine-tune the checkpoint on clean pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import OnStep, TrainingResult, finetune
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints


@DEFENSES.register("clean-finetune")
class CleanFinetune:
    """Fine-tune a poisoned checkpoint on pairs known to be clean (section 6.2, "post-training defense").

    Args:
        settings: How to fine-tune; the paper takes a small learning rate and sees the effect within 50 steps.
    """

    name: ClassVar[str] = "clean-finetune"
    kind: ClassVar[Kind] = "post-training"
    source: ClassVar[str] = "Yang et al., ICML 2023, section 6.2"
    summary: ClassVar[str] = "fine-tunes a suspect checkpoint on clean pairs"
    knobs: ClassVar[Mapping[str, str]] = {
        "settings": "how to fine-tune: a larger learning rate forgets more of the poison, and more of the rest"
    }
    cost: ClassVar[str] = (
        "clean pairs and some steps of training; utility where the clean pairs are of another kind"
    )

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def apply(
        self,
        encoder: DualEncoder,
        clean_pairs: PairDataset,
        inputs: PairInputs,
        *,
        seed: int,
        name: str | None = None,
        on_step: OnStep | None = None,
        checkpoints: Checkpoints | None = None,
        log: LogOptions | None = None,
        progress: ProgressFor | None = None,
    ) -> TrainingResult:
        """Return a repaired copy of the encoder.

        Args:
            encoder: The suspect.
            clean_pairs: Pairs known to be clean.
            inputs: Prepared inputs that hold them.
            seed: Seed of the run.
            name: Name of the repaired encoder.
            on_step: Called after every step; ends the training by returning True.
            checkpoints: Where to keep the state, as in `finetune`.
            log: Where to log every step, as in `finetune`.
            progress: Gives a progress callback, as in `finetune`.

        Raises:
            InputError: If a pair is marked as poisoned.
        """
        refuse_poisoned(clean_pairs)
        return finetune(
            encoder,
            clean_pairs,
            inputs,
            self.settings,
            seed=seed,
            name=name or f"{encoder.name}-sterilized",
            on_step=on_step,
            checkpoints=checkpoints,
            log=log,
            progress=progress,
        )


def refuse_poisoned(clean_pairs: PairDataset) -> None:
    """Refuse pairs given as clean that a manifest marks as poisoned.

    Raises:
        InputError: If there are any.
    """
    if clean_pairs.poisoned.any():
        raise InputError(
            f"{int(clean_pairs.poisoned.sum())} of the pairs given as clean are poisoned, says their manifest"
        )
