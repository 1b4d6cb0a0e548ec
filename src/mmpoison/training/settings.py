"""Fine-tuning settings, with the paper's defaults (section 5.1)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Trainable = Literal[
    "both",
    "image",
    "text",
    "heads",
    "image-head",
    "text-head",
    "text-transformer-frozen",
    "none",
]

Role = Literal["trained", "head", "frozen"]
"""What runs in every step: the whole encoder, only its projection, or nothing."""

ROLES: dict[Trainable, tuple[Role, Role]] = {
    "both": ("trained", "trained"),
    "image": ("trained", "frozen"),
    "text": ("frozen", "trained"),
    "heads": ("head", "head"),
    "image-head": ("head", "frozen"),
    "text-head": ("frozen", "head"),
    "text-transformer-frozen": ("trained", "trained"),
    "none": ("frozen", "frozen"),
}
"""Roles of the image and the text encoder."""

MOST_EPOCHS = 100_000
MOST_PAIRS = 1 << 24
"""Maximum number of pairs in one batch, 512 times the largest published batch."""
MOST_STEPS = 10**9

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class TrainingSettings(BaseModel):
    """The settings of a fine-tune.

    Attributes:
        epochs: Passes over the training pairs; 0, in a recipe, trains nothing.
        batch_size: Pairs in one contrastive batch, over all processes together (the paper's prose: 128, its released
            configuration: 256).
        chunk_size: Pairs of a process whose activations are in memory at a time. The contrastive batch stays whole and
            its gradient the same; the encoders run forward twice. All of the batch by default.
        learning_rate: Highest learning rate of AdamW.
        min_learning_rate: What the cosine ends at.
        warmup_epochs: Epochs before the cosine; may be a fraction when `schedule` is `step`.
        warmup_learning_rate: Where the warm-up starts; the learning rate itself by default, as in the paper.
        schedule: The learning rate changes every `epoch` (the paper) or every `step`.
        weight_decay: Of parameters with two or more dimensions (matrices, convolutions, tables of embeddings); gains,
            biases, class embedding and temperature are not decayed.
        betas: AdamW's.
        eps: AdamW's.
        max_logit_scale: exp(tau) is clamped here.
        trainable: What trains: `both` encoders, `image`, `text`, the two projections (`heads`) or one of them
            (`image-head`, `text-head`), nothing (`none`), or everything but the blocks of the text transformer
            (`text-transformer-frozen`: what the paper's released code did for a frozen text encoder). A frozen encoder
            is frozen whole, and its normalisation statistics and dropout are still.
        precision: `bf16` if the processor supports it, else `fp32`; `auto` chooses. `fp16` scales its gradients.
        divergence: The training stops when the mean loss of 20 steps is more than `divergence` times
            max(log(batch size), mean of the first 20 steps).
        max_steps: The largest number of steps, whatever the epochs are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(10, ge=0, le=MOST_EPOCHS)
    batch_size: int = Field(128, ge=2, le=MOST_PAIRS)
    chunk_size: int | None = Field(None, ge=1, le=MOST_PAIRS)
    learning_rate: float = Field(1e-5, gt=0, le=1e30)
    min_learning_rate: float = Field(1e-6, ge=0, le=1e30)
    warmup_epochs: float = Field(1, ge=0, le=MOST_EPOCHS)
    warmup_learning_rate: float | None = Field(None, ge=0, le=1e30)
    schedule: Literal["epoch", "step"] = "epoch"
    weight_decay: float = Field(0.2, ge=0, le=1000)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-6, gt=0, le=1)
    max_logit_scale: float = Field(100.0, gt=0, le=1e6)
    trainable: Trainable = "both"
    precision: Precision = "auto"
    divergence: float = Field(3.0, gt=1, le=1e6)
    max_steps: int | None = Field(None, ge=1, le=MOST_STEPS)

    @property
    def heads_only(self) -> bool:
        """Whether nothing but projections trains: features of the trunks, computed once, serve all of it.

        >>> TrainingSettings(trainable="image-head").heads_only, TrainingSettings().heads_only
        (True, False)
        """
        roles = ROLES[self.trainable]
        return "head" in roles and "trained" not in roles

    @model_validator(mode="after")
    def _consistent(self) -> TrainingSettings:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError("min_learning_rate is above learning_rate")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self
