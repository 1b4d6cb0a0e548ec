"""The reduced space, against principal components by scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from tests.defenses.filters.suspicious_groups.conftest import Made, saved_and_read

from mmpoison.defenses.filters.suspicious_groups.shard import Space


def lengths_one(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_cosines_are_those_of_principal_components(one_caption: Made) -> None:
    for stored in (one_caption.text, one_caption.image):
        whole = lengths_one(stored.astype(np.float64))
        centred = lengths_one(whole - whole.mean(axis=0))
        expected = lengths_one(PCA(64, random_state=0).fit_transform(centred))
        space = Space.fit(stored)
        # of any length
        found = space.reduce((stored.astype(np.float32) * 3).astype(np.float32))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found @ found[:200].T, expected @ expected[:200].T, atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_unusable_rows_are_not_numbers_and_touch_no_other(one_caption: Made) -> None:
    stored = one_caption.text[:500].copy()
    space = Space.fit(stored)
    expected = space.reduce(stored)
    stored[5] = 0
    stored[9, 2] = np.nan
    found = space.reduce(stored)
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [5, 9]
    good = ~np.isnan(found[:, 0])
    np.testing.assert_array_equal(found[good], expected[good])
    again = Space.from_arrays(saved_and_read(space.to_arrays()))
    np.testing.assert_array_equal(again.reduce(stored), found)


def test_few_dimensions_and_no_rows() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    space = Space.fit(vectors)
    assert space.reduce(vectors).shape == (40, 6)
    assert space.reduce(vectors[:0]).shape == (0, 6)
