"""Chains callbacks of a training."""

from __future__ import annotations

from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.training.loop import OnStep, Step


def chain_callbacks(*callbacks: OnStep | None) -> OnStep:
    """Make one callback that calls each of some in their order; it ends the training if any of them would.

    Args:
        callbacks: The callbacks; None is skipped.
    """
    present = [callback for callback in callbacks if callback is not None]

    def on_step(step: Step, encoder: DualEncoder) -> bool:
        # all are called, also after one that ends the training
        ends = [callback(step, encoder) is True for callback in present]
        return any(ends)

    return on_step
