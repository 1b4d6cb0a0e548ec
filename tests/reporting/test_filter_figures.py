"""The numbers behind the filter's figures, against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from mmpoison.defenses.filter_result import auroc, average_precision
from mmpoison.reporting.filter_page import density, precision_recall, roc

scored = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.booleans()), min_size=2, max_size=20
).filter(lambda rows: len({bad for _, bad in rows}) == 2)


@given(scored)
def test_curves_equal_counting(rows: list[tuple[float, bool]]) -> None:
    distances = np.array([d for d, _ in rows])
    bad = np.array([b for _, b in rows])
    lost, caught = roc(distances, bad)
    recall, precision = precision_recall(distances, bad)
    cuts = sorted(set(distances), reverse=True)
    assert lost[0] == caught[0] == 0
    for place, cut in enumerate(cuts):
        gone = distances >= cut
        assert caught[place + 1] == recall[place] == pytest.approx(gone[bad].mean())
        assert lost[place + 1] == pytest.approx(gone[~bad].mean())
        assert precision[place] == pytest.approx(bad[gone].mean())
    # and their areas are the numbers that are printed
    assert integrate.trapezoid(caught, lost) == pytest.approx(
        auroc(distances[bad], distances[~bad])
    )
    steps = np.diff(recall, prepend=0)
    assert (steps * precision).sum() == pytest.approx(
        average_precision(distances[bad], distances[~bad])
    )


def test_a_density_integrates_to_one() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.05, 5000)
    x, y = density(values, (0.0, 1.0))
    assert integrate.trapezoid(y, x) == pytest.approx(1, abs=1e-3)
    assert x[y.argmax()] == pytest.approx(0.5, abs=0.03)
    x, y = density(np.full(10, 0.3), (0.3, 0.3))
    assert np.isfinite(y).all()
