"""The record of a checkpoint: the object `mmpoison` of its `open_clip_config.json`."""

from __future__ import annotations

from mmpoison.base.record import Number, Record


class EpochRecord(Record):
    """One epoch of a training: its mean loss, last learning rate and seconds."""

    loss: Number
    learning_rate: Number | None = None
    seconds: Number | None = None


class TrainingRecord(Record):
    """A summary of a training.

    Attributes:
        steps: Steps done.
        pairs_per_second: Mean rate.
        precision: What was computed in.
        processes: How many shared each batch; absent for one.
        objective: What was minimised; absent for the contrastive loss.
        epochs: The epochs in order.
    """

    steps: int
    pairs_per_second: Number | None = None
    precision: str | None = None
    processes: int = 1
    objective: str | None = None
    epochs: list[EpochRecord] = []


class PretrainingRecord(Record):
    """A summary of a training from random weights.

    Attributes:
        settings: The settings of that training.
        training: How it went.
    """

    variant: str | None = None
    scenes: int | None = None
    captions_each: int | None = None
    seed: int | None = None
    scenes_version: str | None = None
    tool_version: str | None = None
    settings: dict[str, object] = {}
    training: TrainingRecord = TrainingRecord(steps=0)


class CheckpointRecord(Record):
    """Facts about a checkpoint that programs read back; each is absent where it is not known.

    Attributes:
        name: What the model is called in results.
        activation: `QuickGELU` or `GELU`.
        architecture: Its name in open_clip.
        source: Where the weights come from.
        training: How its last training went.
        seed: Seed of that training.
        poisoned: Whether it was trained on poisoned data.
        pretraining: How it was trained from random weights.
        looks: What was measured during the training, see `run_files.ProbeRecord`.
    """

    name: str | None = None
    activation: str | None = None
    architecture: str | None = None
    source: str | None = None
    training: TrainingRecord | None = None
    seed: int | None = None
    poisoned: bool | None = None
    looks: list[object] = []
    pretraining: PretrainingRecord | None = None
