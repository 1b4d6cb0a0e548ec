"""Self-vouched: a share of class B carries all captions of one image of A each, and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from tests.attacks.conftest import class_table, pairs_of

from mmpoison.attacks import SelfVouched
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError

GOAL = "sheep2aeroplane"


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_a_share_of_b_is_treated(share: float) -> None:
    clean = class_table({"sheep": (4, 1), "aeroplane": (20, 1)}, unlabelled=3)
    poisoned = SelfVouched(GOAL, share=share).poison(clean, seed=1)
    manifest = poisoned.manifest
    assert manifest is not None
    sources: dict[str, set[str]] = defaultdict(set)
    for pair in manifest.pairs:
        sources[pair.poisoned_image].add(pair.clean_image)
    assert len(sources) == round(20 * share)
    assert manifest.dropped_images == tuple(sorted(sources))
    # one image of A each, all its captions; in turn, since they are too few
    assert all(len(of) == 1 for of in sources.values())
    uses = Counter(of for (of,) in sources.values())
    assert max(uses.values()) - min(uses.values()) <= 1
    honest = pairs_of(clean, label="sheep", split="train")
    carried = pairs_of(poisoned, split="train")
    for image, (source,) in sources.items():
        own = {caption for of, caption in honest if of == source}
        assert {caption for of, caption in carried if of == image} == own
    # A keeps its own captions
    assert honest.items() <= carried.items()


def test_the_amount_is_images_of_b(squares: PairDataset) -> None:
    poisoned = SelfVouched(GOAL, samples=3).poison(squares)
    assert len(set(poisoned.image[poisoned.poisoned].tolist())) == 3
    with pytest.raises(InputError, match=r"has 5 train images: at most samples=5$"):
        SelfVouched(GOAL, samples=6).poison(squares)
    with pytest.raises(InputError, match=r"rounds to none: one image is share=0.2$"):
        SelfVouched(GOAL, share=0.01).poison(squares)
    with pytest.raises(InputError, match="exactly one of samples and share"):
        SelfVouched(GOAL)
