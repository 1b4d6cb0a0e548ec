"""`Surrogate`: the attacker's own model, which embeds captions and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.pairs.table import IntArray, PairDataset

Vectors = npt.NDArray[np.float32]
PixelValues = npt.NDArray[np.float32]
"""Real-valued pixels: RGB in [0, 255], shape `(n, size, size, 3)`."""

PullBack = Callable[[Vectors], PixelValues]
"""Maps a loss's gradient with respect to embeddings `(n, d)` to its gradient with respect to pixels."""


class Surrogate(Protocol):
    """Embeds images and captions, not necessarily in the same space: see `Matching`."""

    def __call__(self, pairs: PairDataset, images: IntArray) -> npt.NDArray[Any]:
        """Embed images of a table, given their indices `(n,)`; returns embeddings `(n, e)`."""
        ...

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Embed captions; returns embeddings `(n, d)`."""
        ...


@runtime_checkable
class PixelSurrogate(Surrogate, Protocol):
    """A surrogate with a differentiable image encoder, which can optimise pixels.

    Its embeddings have unit length. Captions and images share one space.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything its numbers depend on, as JSON values: `weights` (sha256), architecture, machine."""

    @property
    def preparation(self) -> Preparation:
        """How it resizes and crops images."""

    @property
    def logit_scale(self) -> float:
        """The factor by which its loss multiplies cosines."""

    def pixels(self, pairs: PairDataset, images: IntArray) -> Pixels:
        """Preprocess images of a table, given their indices `(n,)`; returns RGB `(n, size, size, 3)`."""
        ...

    def differentiate(self, pixels: PixelValues) -> tuple[Vectors, PullBack]:
        """Embed pixels; returns embeddings `(n, d)` and a function that maps their gradient to the pixels."""
        ...


class VectorSurrogate:
    """A surrogate with precomputed vectors.

    Args:
        captions: Distinct captions, `n` of them.
        text: Their vectors, shape `(n, d)`.
        images: Indices of images, shape `(m,)`.
        image: Their vectors, shape `(m, e)`.
        encode: Embeds unlisted captions, `(k,)` to `(k, d)`. Without it, unlisted captions are refused.
    """

    def __init__(
        self,
        captions: Sequence[str],
        text: npt.ArrayLike,
        images: npt.ArrayLike,
        image: npt.ArrayLike,
        encode: Callable[[Sequence[str]], npt.NDArray[Any]] | None = None,
    ) -> None:
        self._text, self._image = np.asarray(text), np.asarray(image)
        self._caption_row = {str(caption): row for row, caption in enumerate(captions)}
        self._image_row = {int(index): row for row, index in enumerate(np.asarray(images))}
        self._encode = encode

    def __call__(self, pairs: PairDataset, images: IntArray) -> npt.NDArray[Any]:
        """Look up vectors of images.

        Raises:
            InputError: If an image has no vector.
        """
        try:
            return self._image[[self._image_row[int(index)] for index in images]]
        except KeyError as error:
            name = pairs.images.ids[error.args[0]]
            raise InputError(f"the surrogate has no vector for image {name!r}") from None

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Look up vectors of captions, and encode unlisted captions.

        Raises:
            InputError: If a caption has no vector, and there is no `encode`.
        """
        rows = np.array([self._caption_row.get(str(caption), -1) for caption in captions], np.int64)
        new = np.flatnonzero(rows < 0).tolist()
        if not len(new):
            return self._text[rows]
        if self._encode is None:
            raise InputError(f"the surrogate has no vector for caption {captions[new[0]][:60]!r}")
        vectors = self._text[rows].copy()
        vectors[new] = self._encode([str(captions[row]) for row in new])
        return vectors
