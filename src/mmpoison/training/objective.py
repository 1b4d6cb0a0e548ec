"""What a training minimises: CLIP's contrastive loss, or that of a defence that trains in another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from mmpoison.models.inputs import Rows
from mmpoison.training.loss import contrastive_loss
from mmpoison.training.views import FeatureNoise, FeatureView, ImageView, TextView


class Embedded(NamedTuple):
    """Unit embeddings of some pairs, each of shape `(n, d)`.

    Attributes:
        image: Of the images: one tensor for each entry of `Objective.image_views`.
        text: Of the captions: one tensor for each entry of `Objective.text_views`.
        scale: exp(tau), a scalar.
        reference_image: As `image`, by the encoder that the training started from; empty if the objective has no
            `reference`. They have no gradient.
        reference_text: As `text`, by that encoder.
    """

    image: tuple[Tensor, ...]
    text: tuple[Tensor, ...]
    scale: Tensor
    reference_image: tuple[Tensor, ...] = ()
    reference_text: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class EpochStart:
    """The training at the start of an epoch.

    Attributes:
        epoch: The epoch that starts, from 0.
        pairs: Number of training pairs, N.
        seed: Seed of the run.
        embed: Embeds all pairs with the encoder in training, in evaluation mode: unit embeddings of the images and of
            the captions, each of shape `(N, d)`, float32, on the CPU. It takes a pass over the data.
    """

    epoch: int
    pairs: int
    seed: int
    embed: Callable[[], tuple[Tensor, Tensor]]


class Objective:
    """CLIP's contrastive loss of each batch. A subclass is another objective; `finetune` runs all of them.

    A subclass holds no torch module and draws no random number from a global generator: a training that was stopped
    resumes to the same bits only if all that changes is in `state`. The loss may depend on the embeddings of the batch
    alone; then it serves whole batches and batches in chunks. Only this class serves several processes.

    Attributes:
        name: Name in messages and in the record of the training.
        image_views: What the image encoder gets of each image: the image itself (None), or a view of it. One
            embedding for each entry.
        text_views: The same for captions.
        feature_view: The view where only a projection trains, in place of those above: the output of the frozen trunk
            is computed once, so pixels and words are not there. None: such a training is refused.
        reference: Whether `loss` needs the embeddings of the encoder that the training started from.
    """

    name: ClassVar[str] = "contrastive"
    image_views: tuple[ImageView | None, ...] = (None,)
    text_views: tuple[TextView | None, ...] = (None,)
    feature_view: FeatureView | None = FeatureNoise()
    reference: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """Return the objective's parameters as plain values: a state of other ones is refused."""
        return {}

    def begin_epoch(self, start: EpochStart) -> None:
        """Prepare an epoch, for example choose what each pair is used for; not called when one is resumed."""

    def rate(self, epoch: int) -> float:
        """Return the factor of the learning rate in an epoch."""
        return 1.0

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch.

        Args:
            pairs: Which pairs they are: indices into the training pairs, shape `(n,)`.
            batch: Their embeddings.

        Returns:
            A scalar.
        """
        return contrastive_loss(batch.text[0], batch.image[0], batch.scale)

    def state(self) -> dict[str, Tensor]:
        """Return all that `begin_epoch` has changed, by name."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` returned."""
