"""Fine-tuning a dual encoder on pairs."""

from mmpoison.training.callbacks import together
from mmpoison.training.divergence import DivergedError
from mmpoison.training.log import LogOptions
from mmpoison.training.loop import OnStep, Step, TrainingResult, finetune
from mmpoison.training.loss import contrastive_loss
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints, copy_logs

__all__ = [
    "Checkpoints",
    "DivergedError",
    "LogOptions",
    "OnStep",
    "Step",
    "TrainingResult",
    "TrainingSettings",
    "contrastive_loss",
    "copy_logs",
    "finetune",
    "together",
]
