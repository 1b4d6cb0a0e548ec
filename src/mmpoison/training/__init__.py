"""Fine-tuning a dual encoder on pairs."""

from mmpoison.training.log import DivergedError, LogOptions
from mmpoison.training.loop import OnStep, Step, TrainingResult, chain_callbacks, finetune
from mmpoison.training.objective import Embedded, EpochStart, Objective, contrastive_loss
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints, copy_logs

together = chain_callbacks
"""Name of `chain_callbacks` in 0.1."""

__all__ = [
    "Checkpoints",
    "DivergedError",
    "Embedded",
    "EpochStart",
    "LogOptions",
    "Objective",
    "OnStep",
    "Step",
    "TrainingResult",
    "TrainingSettings",
    "chain_callbacks",
    "contrastive_loss",
    "copy_logs",
    "finetune",
    "together",
]
