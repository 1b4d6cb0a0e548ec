"""Computes features of one modality each, from any dual encoder and inputs prepared for it.

The scan compares captions with captions and images with images. What the trunks give, before the projection into the
shared space, is the better part for that, and the encoders need not have been aligned with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.defenses.filters.suspicious_groups._conflict import Vectors
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Progress, ProgressFor, Rows

BATCH = 128


def caption_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: npt.NDArray[np.object_],
    progress: ProgressFor | None = None,
) -> Vectors:
    """Compute the outputs of the text trunk for captions, shape `(n, f)`, in their order."""
    rows = inputs.text_rows(captions)
    by_length = np.argsort(inputs.lengths.numpy()[rows], kind="stable")
    sorted_features = _in_batches(
        rows[by_length],
        lambda batch: inputs.text_trunk(encoder, inputs.load_texts(batch)),
        encoder,
        progress("embedding captions") if progress else None,
    )
    features = np.empty_like(sorted_features)
    features[by_length] = sorted_features
    return features


def image_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    images: npt.NDArray[np.int32],
    progress: ProgressFor | None = None,
) -> Vectors:
    """Compute the outputs of the image trunk for images, shape `(n, f)`, in their order."""
    return _in_batches(
        inputs.image_rows(images),
        lambda batch: inputs.image_trunk(encoder, inputs.load_images(batch)),
        encoder,
        progress("embedding images") if progress else None,
    )


def _in_batches(
    rows: Rows,
    trunk: Callable[[Rows], torch.Tensor],
    encoder: DualEncoder,
    progress: Progress | None,
) -> Vectors:
    was_training = encoder.module.training
    encoder.module.eval()
    parts: list[Vectors] = []
    try:
        with torch.no_grad():
            for start in range(0, len(rows), BATCH):
                parts.append(trunk(rows[start : start + BATCH]).float().cpu().numpy())
                if progress is not None:
                    progress(min(start + BATCH, len(rows)), len(rows))
    finally:
        encoder.module.train(was_training)
    return np.concatenate(parts)


# -- Describes groups of captions in words: the terms they have and others do not.


TERMS = 4
FEWEST = 0.1
"""A term occurs in at least this share of the captions it describes."""


class Vocabulary:
    """An index of the words in each caption of a data set.

    Args:
        captions: The distinct captions, shape `(U,)`.
        counts: How many pairs have each, shape `(U,)`.
    """

    def __init__(self, captions: Sequence[str], counts: Sequence[int]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(
            binary=True, stop_words="english", token_pattern=r"(?u)\b\w[\w'-]+\b"
        )
        try:
            self._has = vectorizer.fit_transform(captions).tocsr()
            self._words = vectorizer.get_feature_names_out()
        except ValueError:  # no caption has a word
            self._words = np.empty(0, dtype=object)
            return
        weights = np.asarray(counts, dtype=np.float64)
        self._usual = (self._has.T @ weights) / max(weights.sum(), 1.0)

    def terms(self, captions: Sequence[int]) -> tuple[str, ...]:
        """Return the words that distinguish captions from all others, the most distinctive first.

        Args:
            captions: Which captions, as indices, with repetition.
        """
        if not len(captions) or not len(self._words):
            return ()
        share = np.asarray(self._has[np.asarray(captions)].mean(axis=0)).ravel()
        # the part that the group adds to the information in a caption: common in it, rare elsewhere
        gain = share * np.log((share + 1e-3) / (self._usual + 1e-3))
        gain[share < FEWEST] = 0
        best = np.argsort(-gain, kind="stable")[:TERMS]
        return tuple(str(self._words[word]) for word in best if gain[word] > 0)
