"""Groups that grow from a core: what they count, how strong they are, and which items they have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.defenses.scan.groups.conftest import Made, made, saved_and_read

from mmpoison.defenses.scan.groups import growth
from mmpoison.defenses.scan.groups.fit import crowd_of, fit_pairs
from mmpoison.defenses.scan.groups.growth import (
    COUNTED,
    LIKE,
    Likeness,
    Pool,
    count_cell,
    distinct_groups,
    expected_share,
    grow_groups,
    strength_of,
    suspicious_items,
)
from mmpoison.defenses.scan.groups.items import IMAGES, PAIRS
from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES
from mmpoison.defenses.scan.read.vector_shard import unit


def counts(**named: float) -> npt.NDArray[np.float64]:
    """Counts of a poisoned cell of 25 images, in a set of 6,500, unless given."""
    counted = (25, 24, 1300, 40, 35, 24, 180, 20, 160, 15)
    usual: dict[str, float] = dict(zip(COUNTED, counted, strict=True))
    found = usual | named
    assert set(found) == set(COUNTED)
    return np.array([found[name] for name in COUNTED], dtype=np.float64)


def pool_of(data: Made, view: str) -> Pool:
    reduced = data.reduced()
    return fit_pairs(reduced, crowd_of(reduced))[view][1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_counts_are_those_of_a_loop_over_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 60
    near_text, near_image, odd = rng.random((3, count)) < 0.4
    key = np.sort(rng.integers(-5, 30, count))
    stands_for = dict(zip(np.unique(key).tolist(), rng.integers(1, 4, 40).tolist(), strict=False))
    weight = np.array([stands_for[int(one)] for one in key], dtype=np.float64)
    found = dict(zip(COUNTED, count_cell(near_text, near_image, key, odd, weight), strict=True))

    def images(which: list[bool]) -> float:
        shown = {int(k) for k, inside in zip(key, which, strict=True) if inside}
        return float(sum(stands_for[one] for one in shown))

    inside = [bool(t and i) for t, i in zip(near_text, near_image, strict=True)]
    members = {int(k) for k, one in zip(key, inside, strict=True) if one}
    away = [int(k) not in members for k in key]
    every = list(zip(near_text, near_image, odd, inside, away, strict=True))
    assert found["images"] == images(inside)
    assert found["conflicting"] == images([i and o for _, _, o, i, _ in every])
    assert found["all_conflicting"] == images([o for _, _, o, _, _ in every])
    assert found["near_text"] == images([t and o for t, _, o, _, _ in every])
    assert found["near_image"] == images([i and o for _, i, o, _, _ in every])
    assert found["near_both"] == found["conflicting"]
    assert found["elsewhere_text"] == images([t and a for t, _, _, _, a in every])
    assert found["odd_text"] == images([t and o and a for t, _, o, _, a in every])
    assert found["elsewhere_image"] == images([i and a for _, i, _, _, a in every])
    assert found["odd_image"] == images([i and o and a for _, i, o, _, a in every])


def test_strength_is_that_of_the_two_sums() -> None:
    one = counts(odd_text=60)
    expected = expected_share(one)
    text, image = (60 + 1) / 185, (15 + 1) / 165
    assert expected == pytest.approx(text + image - text * image)
    assert expected_share(counts()) == 0.3
    inside = sum(math.comb(25, n) * expected**n * (1 - expected) ** (25 - n) for n in range(24, 26))
    meeting = sum(
        math.comb(40, n) * math.comb(1300 - 40, 35 - n) / math.comb(1300, 35) for n in range(24, 36)
    )
    logs = math.sqrt(math.log10(inside) * math.log10(meeting))
    assert strength_of(one, 0.8) == pytest.approx(0.8 * (24 / 25 - expected) / 0.7 * logs, rel=1e-6)


def test_a_large_set_has_more_meetings_by_chance() -> None:
    one = counts(all_conflicting=80_000, near_text=400, near_image=350, near_both=50)
    image = 350 * 10
    meeting = sum(
        math.comb(400, n) * math.comb(80_000 - 400, image - n) / math.comb(80_000, image)
        for n in range(50, 401)
    )
    inside = sum(math.comb(25, n) * 0.3**n * 0.7 ** (25 - n) for n in range(24, 26))
    logs = math.sqrt(math.log10(inside) * (math.log10(meeting) + 2))
    assert math.log10(meeting) < -2
    assert strength_of(one, 1.0) == pytest.approx((24 / 25 - 0.3) / 0.7 * logs, rel=1e-6)


def test_cells_count_as_in_the_pool_and_shards_add_up(three_captions: Made) -> None:
    pool = pool_of(three_captions, PAIRS)
    found = grow_groups(pool)
    cells = growth.Cells.from_arrays(saved_and_read(found.cells.to_arrays()))
    whole = cells.count(pool.text, pool.image, pool.key, pool.share)
    np.testing.assert_allclose(
        cells.strength(whole), [found.cell_strength, found.strength], rtol=0.05
    )
    even = pool.key % 2 == 0
    parts = [
        cells.count(pool.text[some], pool.image[some], pool.key[some], pool.share[some])
        for some in (even, ~even)
    ]
    # those elsewhere too, because an image is in one part
    np.testing.assert_array_equal(parts[0] + parts[1], whole)


def test_an_honest_confusion_is_no_group() -> None:
    """Many of the cell do not conflict."""
    assert strength_of(counts(images=100), 1.0) == 0


@pytest.mark.parametrize(("captions", "view"), [(1, IMAGES), (3, PAIRS)])
def test_the_poison_is_the_strongest_group(captions: int, view: str) -> None:
    data = made(3, captions=captions, images=3000 if captions == 1 else 1200, poison=40)
    pool = pool_of(data, view)
    found = grow_groups(pool)
    first = found.rows[0]
    assert data.bad[first].mean() > 0.9
    assert np.isin(np.flatnonzero(data.bad), first).mean() > 0.8
    assert found.strength[0] > 1.5 * found.strength[1:].max(initial=0)
    assert (np.diff(found.strength) <= 0).all()
    # what is like a group is in it, and nearly all of it is
    again = Likeness.from_arrays(saved_and_read(found.likeness.to_arrays()))
    like = np.flatnonzero(again.of(pool.text, pool.image, pool.key, pool.share)[:, 0] >= 1)
    assert (pool.share[first] <= growth.CONFLICTING).all()
    assert np.isin(like, first).all()
    assert len(like) >= 0.9 * len(first)
    # poison is what the next fit leaves out
    assert np.isin(np.flatnonzero(data.bad), suspicious_items(pool, 0.05)).mean() > 0.5


def test_items_of_one_image_do_not_count_for_each_other(three_captions: Made) -> None:
    pool = pool_of(three_captions, PAIRS)
    one_image = replace(pool, key=np.where(three_captions.bad, -1, pool.key))
    found = grow_groups(one_image)
    for rows, strength in zip(found.rows, found.strength, strict=True):
        assert three_captions.bad[rows].mean() < 0.5 or strength < 1


def test_an_item_that_stands_for_ten_counts_as_ten(one_caption: Made) -> None:
    pool = pool_of(one_caption, IMAGES)
    calm = pool.share > growth.SEEDS_AMONG
    # nine of ten calm items are gone, and each of the others stands for ten
    stays = np.flatnonzero(~calm | (np.cumsum(calm) % 10 == 0))
    place = np.full(len(pool.key), -1)
    place[stays] = np.arange(len(stays))
    thinned = Pool(
        pool.text[stays],
        pool.image[stays],
        pool.key[stays],
        pool.share[stays],
        np.where(calm[stays], 10.0, 1.0),
        place[pool.seeds],
        np.flatnonzero(calm[stays]),
    )
    whole, part = grow_groups(pool), grow_groups(thinned)
    # the calm items of the cell are few: none or ten are left of them
    assert 0.5 < part.strength[0] / whole.strength[0] < 2
    assert one_caption.bad[stays[part.rows[0]]].mean() > 0.9


@pytest.mark.parametrize("count", [0, 1, 2, 7, 30])
def test_too_few_items_are_no_obstacle(count: int) -> None:
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(2, count, 4)).astype(np.float32)
    conflict = rng.normal(size=count).astype(np.float32)
    found = grow_groups(Pool.of(text, image, np.arange(count), conflict))
    assert len(found.likeness.least) == len(found.rows) == len(found.strength)
    assert found.cells.count(text, image, np.arange(count), np.ones(count)).shape == (
        len(found.rows),
        len(COUNTED),
    )


def test_of_groups_that_share_half_the_stronger_stays() -> None:
    rows = [np.arange(10), np.arange(4, 12), np.arange(20, 30), np.arange(29, 33)]
    assert distinct_groups([1.0, 3.0, 2.0, 2.5], rows) == [1, 3, 2]


@pytest.mark.parametrize("seed", range(3))
def test_the_cell_leads_to_the_rest(seed: int) -> None:
    """Half of the poison stands apart from the other half, which alone is a cell."""
    data = made(seed, images=3000, poison=60)
    pool = pool_of(data, IMAGES)
    half = np.flatnonzero(data.bad)[::2]
    whole = growth._Joining(pool).whole(half)
    assert np.isin(np.flatnonzero(data.bad), whole).mean() >= 0.9
    assert data.bad[whole].mean() >= 0.9
    # without the other half nothing is taken for it
    rest = np.setdiff1d(np.arange(len(data.bad)), np.flatnonzero(data.bad)[1::2])
    place = np.full(len(pool.key), -1)
    place[rest] = np.arange(len(rest))
    sides = pool.text[rest], pool.image[rest], pool.key[rest], pool.share[rest], pool.weight[rest]
    fewer = Pool(*sides, np.arange(0), np.arange(len(rest)))
    alone = growth._Joining(fewer).whole(place[half])
    assert data.bad[rest[alone]].mean() >= 0.9


def test_likeness_is_that_of_a_loop_over_items() -> None:
    """Against the sums pair by pair: what is near on both sides, on other images, of the group and of all."""
    rng = np.random.default_rng(3)
    kind = np.arange(80) // 4 % 5
    text, image = (
        unit((rng.normal(size=(5, 8))[kind] + rng.normal(size=(80, 8))).astype(np.float32))
        for _ in "ti"
    )
    share = (1 + rng.permutation(80)) / 80
    group = np.flatnonzero((kind == 0) & (share <= growth.CONFLICTING))
    every = np.arange(80)
    pool = Pool(text, image, every // 2, share, np.ones(80), every, every)
    joining = growth._Joining(pool)
    found = joining.likeness([group]).of(text, image, pool.key, share)[:, 0]

    def has(row: int) -> float:
        near = {
            other: math.exp(
                growth.NEARNESS * float(text[row] @ text[other] + image[row] @ image[other] - 2)
            )
            for other in range(80)
            if row // 2 != other // 2
        }
        mine = sum(near.get(other, 0.0) for other in group.tolist())
        return mine / sum(near.values()) / math.sqrt(max(share[row], growth.LEAST_SHARE))

    least = LIKE * float(np.median([has(row) for row in group.tolist()]))
    compared = [row for row in range(80) if found[row] > 0]
    assert set(group.tolist()) <= set(compared)
    assert (share[compared] <= growth.CONFLICTING).all()
    np.testing.assert_allclose(found[compared], [has(row) / least for row in compared], rtol=1e-4)
    assert joining.likeness([]).of(text, image, pool.key, share).shape == (80, 0)


def test_captions_join_by_the_other_captions_of_their_images() -> None:
    """Against sums item by item. What the images look like does not count, and neither does conflict."""
    rng = np.random.default_rng(4)
    kinds = np.eye(8, dtype=np.float32)[:5]
    kind, other = np.arange(480) // 4 % 5, np.arange(480) % 5
    text, context = (
        unit((kinds[one] + rng.normal(size=(480, 8)) / 20).astype(np.float32))
        for one in (kind, other)
    )
    context[::7] = 0  # these are the only captions of their images
    every, share = np.arange(480), (1 + rng.permutation(480)) / 480
    goal = np.flatnonzero((kind == 0) & (other == 2))
    known, rest = np.delete(goal, np.s_[::4]), goal[::4]
    image = np.zeros_like(text)
    pool = Pool(text, image, every // 2, share, np.ones(480), every, every, context)
    by_context = growth._Joining(pool).by_context([known])
    found = by_context.of(text, context, pool.key, np.full(480, growth.CONFLICTING))[:, 0]

    def has(row: int) -> float:
        near = {
            one: math.exp(
                growth.CONTEXT_NEARNESS
                * float(text[row] @ text[one] + context[row] @ context[one] - 2)
            )
            for one in range(480)
            if row // 2 != one // 2
        }
        mine = sum(near[one] for one in known.tolist() if one in near and context[one].any())
        return mine / sum(near.values())

    compared = [row for row in range(480) if found[row] > 0]
    np.testing.assert_allclose(found[compared], [has(row) / LIKE for row in compared], rtol=1e-4)
    joins = np.flatnonzero(found >= 1)
    assert np.isin(rest, joins).mean() >= 0.5
    assert np.isin(joins, goal).all()
    assert context[joins].any(axis=1).all()


def test_images_whose_captions_agree_with_the_group_join_nothing() -> None:
    """An attacker's own images have false captions only."""
    data = made(5, images=3000, poison=60)
    pool, group = pool_of(data, IMAGES), np.flatnonzero(data.bad)
    agree = growth._Joining(replace(pool, context=pool.text)).by_context([group])
    assert not agree.of(pool.text, pool.text, pool.key, pool.share).any()
    unknown = growth._Joining(replace(pool, context=None)).by_context([group])
    assert not unknown.of(pool.text, np.zeros_like(pool.text), pool.key, pool.share).any()


def test_what_makes_two_kinds_no_goal() -> None:
    data = made(3, images=3000, poison=40)
    pool = pool_of(data, IMAGES)
    calm, group = np.flatnonzero(pool.share > 1 - growth.CALM), grow_groups(pool).rows[0]
    strong = growth._weight(pool, group, calm)
    assert strong > 0.2
    away, said = growth._misplaced(pool, group, calm)
    assert away > 0.8
    assert abs(said) < 0.3
    # captions of such images say half of what the group says; then, the images of such captions look like its own
    topic, place = (unit(side[group].mean(axis=0)) for side in (pool.text, pool.image))
    there = (pool.image @ place > 0.5) & (pool.share > 1 - growth.CALM)
    text = np.where(there[:, None], unit(pool.text + 2 * topic), pool.text)
    assert growth._weight(replace(pool, text=text), group, calm) < 0.6 * strong
    home = (pool.text @ topic > 0.5) & (pool.share > 1 - growth.CALM)
    image = np.where(home[:, None], unit(pool.image + 2 * place), pool.image)
    assert growth._weight(replace(pool, image=image), group, calm) < 0.6 * strong
    # items that conflict as usual, and too few of them
    assert growth._weight(replace(pool, share=np.full(len(pool.key), 0.1)), group, calm) == 0
    assert growth._weight(pool, group[: FEWEST_IMAGES - 1], calm) == 0
