"""`Surrogate`: the model that an attacker knows and embeds captions and images with."""

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
"""Pixels that need not be whole numbers: RGB in [0, 255], shape `(n, size, size, 3)`."""

PullBack = Callable[[Vectors], PixelValues]
"""Turns the gradient of a loss by the embeddings `(n, d)` into its gradient by the pixels."""


class Surrogate(Protocol):
    """Embeds images and captions. The two need not be in one space: see `Matching`."""

    def __call__(self, pairs: PairDataset, images: IntArray) -> npt.NDArray[Any]:
        """Embed images of a table by their indices `(n,)`: embeddings `(n, e)`."""
        ...

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Embed captions: embeddings `(n, d)`."""
        ...


@runtime_checkable
class PixelSurrogate(Surrogate, Protocol):
    """A surrogate whose image encoder is known, so that pixels can be optimised through it.

    Its embeddings have length one, and its captions and images are in one space.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its numbers depend on, as JSON values: `weights` (sha256), architecture, machine."""

    @property
    def preparation(self) -> Preparation:
        """How images are resized and cropped for it."""

    @property
    def logit_scale(self) -> float:
        """What its loss multiplies cosines with."""

    def pixels(self, pairs: PairDataset, images: IntArray) -> Pixels:
        """Prepare images of a table by their indices `(n,)` for the encoder: RGB `(n, size, size, 3)`."""
        ...

    def differentiate(self, pixels: PixelValues) -> tuple[Vectors, PullBack]:
        """Embed pixels: embeddings `(n, d)`, and the function that pulls a gradient back to the pixels."""
        ...


class VectorSurrogate:
    """A surrogate whose vectors were computed before.

    Args:
        captions: Distinct captions, `n` of them.
        text: Their vectors, shape `(n, d)`.
        images: Indices of images, shape `(m,)`.
        image: Their vectors, shape `(m, e)`.
        encode: Embeds captions that are not listed, `(k,)` to `(k, d)`; without it they are refused.
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
        """Look images up.

        Raises:
            InputError: If one has no vector.
        """
        try:
            return self._image[[self._image_row[int(index)] for index in images]]
        except KeyError as error:
            name = pairs.images.ids[error.args[0]]
            raise InputError(f"the surrogate has no vector of image {name!r}") from None

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Look captions up, and encode those that are not listed.

        Raises:
            InputError: If one has no vector, and nothing encodes it.
        """
        rows = np.array([self._caption_row.get(str(caption), -1) for caption in captions], np.int64)
        new = np.flatnonzero(rows < 0).tolist()
        if not len(new):
            return self._text[rows]
        if self._encode is None:
            raise InputError(f"the surrogate has no vector of caption {captions[new[0]][:60]!r}")
        vectors = self._text[rows].copy()
        vectors[new] = self._encode([str(captions[row]) for row in new])
        return vectors
