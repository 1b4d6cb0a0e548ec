"""Learning rate over time."""

from __future__ import annotations

import math

from mmpoison.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """Compute the learning rate of one step (0-based): warm-up, then a cosine to the minimum (section 5.1).

    Args:
        settings: The fine-tune's settings.
        step: Steps done before this one.
        steps_per_epoch: Steps of one epoch.

    >>> paper = TrainingSettings()
    >>> [f"{learning_rate(paper, epoch * 7, 7):.2e}" for epoch in (0, 1, 9)]
    ['1.00e-05', '1.00e-05', '1.27e-06']
    """
    done = step / steps_per_epoch if settings.schedule == "step" else float(step // steps_per_epoch)
    high, low = settings.learning_rate, settings.min_learning_rate
    if done < settings.warmup_epochs:
        start = high if settings.warmup_learning_rate is None else settings.warmup_learning_rate
        return start + (high - start) * done / settings.warmup_epochs
    length = max(settings.epochs - settings.warmup_epochs, 1e-9)
    part = min((done - settings.warmup_epochs) / length, 1.0)
    return low + (high - low) * (1 + math.cos(math.pi * part)) / 2
