"""Training objectives: CLIP's contrastive loss, and the interface for a defence's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpoison.models.inputs import Rows

# -- CLIP's symmetric contrastive loss.


def contrastive_loss(text: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    """Compute the mean of a batch's two cross-entropies: each caption against all images, and the reverse (section 2).

    Args:
        text: Unit embeddings of the captions, shape `(N, d)`.
        image: Unit embeddings of their images, shape `(N, d)`.
        scale: exp(tau), a scalar.

    Returns:
        A scalar; log(N) for uninformative embeddings.

    >>> e = torch.ones(4, 1)
    >>> round(float(contrastive_loss(e, e, torch.tensor(1.0))), 4)  # log(4)
    1.3863
    """
    logits = scale * text @ image.T
    diagonal = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2


# -- Views of an image, a caption or a feature: random changes that preserve its meaning.


ImageView = Callable[[Tensor, np.random.Generator], Tensor]
"""Transforms pixels, uint8 of shape `(n, side, side, 3)`, into new pixels of the same shape."""

TextView = Callable[[Sequence[str], np.random.Generator], list[str]]
"""Transforms captions into the same number of new captions."""

FeatureView = Callable[[Tensor, np.random.Generator], Tensor]
"""Transforms features of a frozen trunk, shape `(n, f)`, into new features of the same shape."""


@dataclass(frozen=True)
class CropFlipColour:
    """Image views: a random crop resized to full size, randomly mirrored, with random brightness and contrast.

    Attributes:
        area: Minimum area of the crop, as a share of the image. The aspect ratio stays.
        flip: Probability of mirroring.
        colour: Brightness and contrast are multiplied by factors in `[1 - colour, 1 + colour]`.
    """

    area: float = 0.5
    flip: float = 0.5
    colour: float = 0.2

    def __call__(self, pixels: Tensor, stream: np.random.Generator) -> Tensor:
        """Return changed pixels; see `ImageView`."""
        count = len(pixels)
        side = np.sqrt(stream.uniform(self.area, 1, count))
        # in coordinates of `affine_grid`, the image extends from -1 to 1
        shift = (1 - side) * stream.uniform(-1, 1, (2, count))
        mirror = np.where(stream.random(count) < self.flip, -1.0, 1.0)
        brightness, contrast = stream.uniform(1 - self.colour, 1 + self.colour, (2, count))
        zero = np.zeros(count)
        rows = [[side * mirror, zero, shift[0]], [zero, side, shift[1]]]
        transform = torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()
        images = pixels.permute(0, 3, 1, 2).float()
        grid = F.affine_grid(transform, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = images * _column(brightness)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * _column(contrast)
        return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _column(factors: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(factors).float().view(-1, 1, 1, 1)


@dataclass(frozen=True)
class FeatureNoise:
    """Views of the features of a frozen trunk: dropout, then Gaussian noise.

    This differs from views of pixels and words: it does not model crops, colours or synonyms. It is the only option if
    the trunk's outputs are computed only once.

    Attributes:
        dropout: Share of the features set to zero; the others are scaled by `1 / (1 - dropout)`.
        noise: Standard deviation of the noise, as a share of the root mean square of the row.
    """

    dropout: float = 0.1
    noise: float = 0.1

    def __call__(self, features: Tensor, stream: np.random.Generator) -> Tensor:
        """Return changed features."""
        drawn = torch.Generator().manual_seed(int(stream.integers(1 << 62)))
        shape = features.shape
        kept = torch.rand(shape, generator=drawn) >= self.dropout
        spread = self.noise * features.square().mean(dim=-1, keepdim=True).sqrt()
        noise = spread * torch.randn(shape, generator=drawn)
        return features * kept / (1 - self.dropout) + noise


class Embedded(NamedTuple):
    """Unit embeddings of some pairs, each of shape `(n, d)`.

    Attributes:
        image: Image embeddings, one tensor per entry of `Objective.image_views`.
        text: Caption embeddings, one tensor per entry of `Objective.text_views`.
        scale: exp(tau), a scalar.
        reference_image: Like `image`, from the initial encoder, without gradients; empty if the objective has no
            `reference`.
        reference_text: Like `text`, from the initial encoder.
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
        embed: Embeds all pairs with the current encoder in evaluation mode. Returns unit embeddings of images and
            captions, each of shape `(N, d)`, float32, on the CPU. Takes one pass over the data.
    """

    epoch: int
    pairs: int
    seed: int
    embed: Callable[[], tuple[Tensor, Tensor]]


class Objective:
    """CLIP's contrastive loss of each batch. Subclasses implement other objectives for `finetune`.

    A subclass contains no torch module and uses no global random generator: an interrupted training resumes
    bit-identically only if `state` contains everything that changes. The loss must depend only on the batch's
    embeddings, so that it works for whole batches and for chunks. Only this class supports several processes.

    Attributes:
        name: Name in messages and in the record of the training.
        image_views: Inputs of the image encoder for each image: the image itself (None) or a view. There is one
            embedding per entry.
        text_views: The same for captions.
        feature_view: The view to use instead if only a projection trains: the frozen trunk's output is computed once,
            so pixels and words are not available. None refuses such training.
        reference: Whether `loss` needs embeddings from the initial encoder.
    """

    name: ClassVar[str] = "contrastive"
    image_views: tuple[ImageView | None, ...] = (None,)
    text_views: tuple[TextView | None, ...] = (None,)
    feature_view: FeatureView | None = FeatureNoise()
    reference: ClassVar[bool] = False

    def settings(self) -> dict[str, Any]:
        """Return the objective's parameters as plain values. States with other values are refused."""
        return {}

    def begin_epoch(self, start: EpochStart) -> None:
        """Prepare an epoch, for example by assigning pairs to roles. Not called when an epoch is resumed."""

    def rate(self, epoch: int) -> float:
        """Return the learning rate factor of an epoch."""
        return 1.0

    def loss(self, pairs: Rows, batch: Embedded) -> Tensor:
        """Compute the loss of a batch.

        Args:
            pairs: Indices of the batch's pairs among the training pairs, shape `(n,)`.
            batch: Their embeddings.

        Returns:
            A scalar.
        """
        return contrastive_loss(batch.text[0], batch.image[0], batch.scale)

    def state(self) -> dict[str, Tensor]:
        """Return everything that `begin_epoch` changed, by name."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a result of `state`."""


# -- Gradient caching: the gradient of a large contrastive batch with the memory of a small one (decision 0015).


Embed = Callable[[int, bool], Embedded]
"""Embeds a chunk, given its number; the second time with gradients and without the reference."""


def cached_backward(
    embed: Embed,
    chunks: int,
    loss_of: Callable[[Embedded], Tensor],
    backward: Callable[[Tensor], None],
    apart: Callable[[], AbstractContextManager[Any]],
) -> Tensor:
    """Add the gradient of a whole batch's loss to the parameters, with only one chunk's graph in memory at a time.

    Args:
        embed: Embeds chunks; called twice for each, in order.
        chunks: Number of chunks.
        loss_of: Computes the loss from the batch's embeddings.
        backward: Backpropagates from a scalar.
        apart: Context for all but the last chunk, in which DDP postpones averaging.

    Returns:
        The loss, without a graph.
    """
    with torch.no_grad():
        first = [embed(chunk, False) for chunk in range(chunks)]
    image, text = _joined([part.image for part in first]), _joined([part.text for part in first])
    scale = first[0].scale.detach().clone().requires_grad_()
    whole = Embedded(
        tuple(one.requires_grad_() for one in image),
        tuple(one.requires_grad_() for one in text),
        scale,
        _joined([part.reference_image for part in first]),
        _joined([part.reference_text for part in first]),
    )
    sizes = [len(part.image[0]) for part in first]
    del first
    loss = loss_of(whole)
    torch.autograd.backward(loss)
    # an objective may not use the gradient of one side
    gradients = [
        None if one.grad is None else torch.split(one.grad, sizes)
        for one in (*whole.image, *whole.text)
    ]

    def surrogate(chunk: int, embedded: Embedded) -> Tensor:
        """Build a scalar whose gradient for each embedding is the given one."""
        terms = [
            (one * parts[chunk]).sum()
            for one, parts in zip((*embedded.image, *embedded.text), gradients, strict=True)
            if parts is not None
        ]
        return reduce(torch.add, terms, embedded.scale * 0)

    for chunk in range(chunks - 1):
        with apart():
            backward(surrogate(chunk, embed(chunk, True)))
    last = embed(chunks - 1, True)
    final = surrogate(chunks - 1, last)
    if scale.grad is not None:
        # the temperature belongs to the whole batch, so count it once
        final = final + (last.scale * scale.grad).sum()
    backward(final)
    return loss.detach()


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate the chunks of each view."""
    return tuple(torch.cat(of_view) for of_view in zip(*parts, strict=True))


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch normalisation: the first pass must not count them twice."""
    tracking = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.training
        and part.track_running_stats
    ]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


def normalises_batches(module: nn.Module) -> bool:
    """Check whether a trained module has batch normalisation, which would see a chunk instead of the batch."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
        for part in module.modules()
    )
