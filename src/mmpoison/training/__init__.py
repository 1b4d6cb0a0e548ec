"""Fine-tuning a dual encoder on pairs."""

from mmpoison.training.loop import Step, TrainingResult, finetune
from mmpoison.training.loss import contrastive_loss
from mmpoison.training.settings import TrainingSettings

__all__ = ["Step", "TrainingResult", "TrainingSettings", "contrastive_loss", "finetune"]
