"""Evidence and clusters of the compared items, against those of the scan in memory."""

from __future__ import annotations

import numpy as np
import pytest
from tests.defenses.filters.passes.groups.conftest import Made

from mmpoison.defenses.filters.passes.groups.findings import ComparedItems
from mmpoison.defenses.filters.passes.groups.model import Usual
from mmpoison.defenses.filters.suspicious_groups._evidence import CONFLICTING, evidence_of


@pytest.mark.parametrize("kind", ["one_caption", "three_captions"])
def test_where_all_is_compared_the_evidence_is_that_in_memory(
    kind: str, request: pytest.FixtureRequest
) -> None:
    data: Made = request.getfixturevalue(kind)
    views = data.views()
    conflict = np.random.default_rng(0).normal(size=len(data)).astype(np.float32)
    conflict[data.bad] += 4
    expected = evidence_of(views, conflict).score
    usual = Usual.of(conflict)
    high = conflict > usual.border
    assert high.mean() == pytest.approx(CONFLICTING, abs=0.01)
    text, image, key = views.text, views.image[views.image_of], views.image_of
    ones = np.ones(int(high.sum()), dtype=np.float32)
    sides = text[high], image[high], key[high]
    compared = ComparedItems(*sides, ones, *sides, text[~high])
    found, _, _ = compared.evidence(*sides, conflict[high], usual)
    np.testing.assert_allclose(found, expected[high], atol=2e-3)


def test_an_item_that_counts_half_is_half_an_item(one_caption: Made) -> None:
    views = one_caption.views()
    text, image = views.text[:60], views.image[:60]
    key = np.arange(60)
    usual = Usual(0.0, 0.0, 1.0)
    conflict = np.zeros(60, dtype=np.float32)
    whole, half = (
        ComparedItems(text, image, key, np.full(60, share, np.float32), text, image, key, text)
        for share in (1.0, 0.5)
    )
    alike, fewer = (one.evidence(text, image, key, conflict, usual)[1] for one in (whole, half))
    np.testing.assert_allclose(fewer, alike / 2, rtol=1e-5)
