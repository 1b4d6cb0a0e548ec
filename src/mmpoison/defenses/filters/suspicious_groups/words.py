"""Describes groups of captions in words: the terms they have and others do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
