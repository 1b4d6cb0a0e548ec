"""Several callbacks of a training as one."""

from __future__ import annotations

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.training.loop import OnStep, Step


def together(*callbacks: OnStep | None) -> OnStep:
    """One callback that calls each of some in their order, and ends the training if any of them would.

    Args:
        callbacks: None stands for nobody.
    """
    present = [callback for callback in callbacks if callback is not None]

    def on_step(step: Step, encoder: DualEncoder) -> bool:
        # all are called, also after one that ends the training
        ends = [callback(step, encoder) is True for callback in present]
        return any(ends)

    return on_step
