"""Fine-tuning a dual encoder on pairs."""

from mmpoison.training.callbacks import chain_callbacks
from mmpoison.training.divergence import DivergedError
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import OnStep, Step, TrainingResult, finetune
from mmpoison.training.loss import contrastive_loss
from mmpoison.training.objective import Embedded, EpochStart, Objective
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
