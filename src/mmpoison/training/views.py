"""Views of an image, a caption or a feature: random changes after which it still shows or says the same.

Every step draws its own views, from the seed of the run and the number of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmpoison.pairs.captions import synonyms

ImageView = Callable[[Tensor, np.random.Generator], Tensor]
"""Changes pixels, shape `(n, side, side, 3)`, uint8; returns new ones of the same shape."""

TextView = Callable[[Sequence[str], np.random.Generator], list[str]]
"""Changes captions; returns as many."""

FeatureView = Callable[[Tensor, np.random.Generator], Tensor]
"""Changes features of a frozen trunk, shape `(n, f)`; returns new ones of the same shape."""


@dataclass(frozen=True)
class CropFlipColour:
    """Views of images: a random part of the image at full size, mirrored or not, with other brightness and contrast.

    Attributes:
        area: Smallest area of the part, as a share of the image; its sides have the ratio of the image's.
        flip: Probability of the mirror image.
        colour: Brightness and contrast are multiplied by factors in `[1 - colour, 1 + colour]`.
    """

    area: float = 0.5
    flip: float = 0.5
    colour: float = 0.2

    def __call__(self, pixels: Tensor, stream: np.random.Generator) -> Tensor:
        """Return changed pixels; see `ImageView`."""
        count = len(pixels)
        side = np.sqrt(stream.uniform(self.area, 1, count))
        # in the coordinates of `affine_grid` the image reaches from -1 to 1
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
class EditWords:
    """Views of captions by EDA (Wei and Zou, EMNLP 2019): each caption gets one of four edits.

    The edits are: delete words, swap two words, insert a synonym of a word, replace a word by a synonym. A word without
    a synonym is inserted itself, and replaced by nothing.

    Attributes:
        share: Share of a caption's words that an edit changes; one at least.
        synonyms: Synonyms of words in lower case; by default those of `mmpoison.pairs.captions`.
    """

    share: float = 0.1
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=synonyms)

    def __call__(self, captions: Sequence[str], stream: np.random.Generator) -> list[str]:
        """Return changed captions; see `TextView`."""
        return [" ".join(self._edited(caption.split(), stream)) for caption in captions]

    def _edited(self, words: list[str], stream: np.random.Generator) -> list[str]:
        edit = int(stream.integers(4))
        for _ in range(max(1, int(self.share * len(words)))):
            if len(words) < 2:
                break
            first, second = (int(i) for i in stream.choice(len(words), 2, replace=False))
            if edit == 0:
                del words[first]
            elif edit == 1:
                words[first], words[second] = words[second], words[first]
            elif edit == 2:
                words.insert(second, self._synonym(words[first], stream))
            else:
                words[first] = self._synonym(words[first], stream)
        return words

    def _synonym(self, word: str, stream: np.random.Generator) -> str:
        known = self.synonyms.get(word.lower(), ())
        return known[int(stream.integers(len(known)))] if known else word


@dataclass(frozen=True)
class FeatureNoise:
    """Views of the features of a frozen trunk: dropout, then Gaussian noise.

    This is another method than views of pixels and words: it says nothing of crops, colours or synonyms. It is what can
    be done where the trunk's outputs are computed once.

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
