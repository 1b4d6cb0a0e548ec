"""One of the processes of `test_processes`: trains a little, and the first one writes what came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mmpoison.base.processes import end_processes, is_main_process
from mmpoison.datasets import load_pairs
from mmpoison.models import DualEncoder, load_checkpoint, prepare_pixels
from mmpoison.training import Checkpoints, Step, TrainingSettings, finetune

VARIANTS: dict[str, dict[str, Any]] = {
    # batches of 31 pairs, which two cannot share evenly, and a short last one
    "plain": {"batch_size": 31},
    "chunks": {"batch_size": 31, "chunk_size": 5},
    "image": {"batch_size": 31, "trainable": "image"},
}


def train(folder: Path, checkpoint: Path, states: Path | None) -> dict[str, torch.Tensor]:
    """Losses of all steps, gradients of the first and the weights at the end, for every variant."""
    encoder = load_checkpoint(checkpoint)
    pairs = load_pairs(folder).select(split="train")
    inputs = prepare_pixels(encoder, pairs)
    found: dict[str, torch.Tensor] = {}
    for name, changes in VARIANTS.items():
        losses: list[float] = []

        def probe(
            step: Step, student: DualEncoder, name: str = name, losses: list[float] = losses
        ) -> None:
            losses.append(step.loss)
            if step.step == 1:
                for key, parameter in student.module.named_parameters():
                    if parameter.grad is not None:
                        found[f"{name}/gradient/{key}"] = parameter.grad.clone()

        settings = TrainingSettings.model_validate(
            {"epochs": 1, "learning_rate": 1e-3, "precision": "fp32", "eps": 1e-2, **changes}
        )
        keep = Checkpoints(states / name, steps=2) if states is not None else None
        result = finetune(encoder, pairs, inputs, settings, seed=0, on_step=probe, checkpoints=keep)
        found[f"{name}/losses"] = torch.tensor(losses)
        for key, value in result.encoder.module.state_dict().items():
            found[f"{name}/weights/{key}"] = value
    return found


if __name__ == "__main__":
    data, model, out = map(Path, sys.argv[1:])
    result = train(data, model, out.parent / "states")
    if is_main_process():
        safetensors.torch.save_file(result, out)
    end_processes()
