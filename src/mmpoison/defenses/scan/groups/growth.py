"""Finds groups: conflicting items that are alike on both sides, grown to all items near their middle.

A core is a few conflicting items with captions alike and images alike. It grows to all items near its middle on both
sides, whether they conflict or not. An honest confusion grows into a cell of which few items conflict; nearly all of a
poisoned cell does, while captions like its own elsewhere, and images like its own elsewhere, do not.

A cell is the middle of the poison. The rest is like it: captions like its captions with images like its images
(`Likeness`). What is called a group, graded and dropped is the cell with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES
from mmpoison.defenses.scan.read.vector_shard import Index, Stored, Values, Vectors, unit

Numbers = npt.NDArray[np.float64]

CONFLICTING = 0.2
"""Share of the items that count as conflicting, those with the most conflict."""

CALM = 0.9
"""Share of the items that say what is usual, those with the least conflict."""

SEEDS_AMONG = 0.15
"""Share of the items, those with the most conflict, that cores are made of."""

MOST_SEEDS = 4000

CORES = 100
"""Cores that are grown: a weak core may grow into a strong group."""

NEARNESS = 5.0
"""Two items count for each other by exp(5 (cosine - 1)) of their captions and the same of their images."""

CAPTION_NEARNESS = 20.0
"""As `NEARNESS`, for captions that say the same."""

BLOCK = 512
"""Rows that are compared at a time."""

IN_CORE = float(np.exp(-0.8 * NEARNESS))
"""An item belongs to a core from this nearness to its middle, captions and images together."""

FEW, EXPECTED_AT_LEAST = 0.1, 0.5
"""Are added to the numbers of alike items, found and expected, so that single items do not count."""

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
"""How near the middle an item must be on both sides, on a scale from 0, the median of all items, to 1, their upper half
percent: the edge at which the group is strongest is taken, because kinds are of different width. A kind of a large set
has less than half a percent of it: there the wide edges would reach other kinds."""

ROUNDS = 3
MEASURED_ON = 10_000
"""Items that the scale of nearness is measured on."""

EXPECTED = 0.3
"""Share of a cell that conflicts by itself, at least: cells were found by their conflict."""

EXPECTED_AT_MOST = 0.95
PRIOR = 5
"""Items that the share of conflict elsewhere is pulled to `CONFLICTING` with, where there are few."""

FEWEST_CALM = 5
SAME_TOPIC = (0.5, 0.8)
"""Mean cosine below which captions are on different topics, and from which they are on one; topics are at about 0."""

SAME_KIND = (0.3, 0.6)
"""The same of images."""

USUAL_SURPRISE = float(1 / np.log(10) - np.log10(CONFLICTING))
"""Mean of -log10 of the share of items that conflict as much, of conflicting items without anything special."""

LIKE = 0.3
"""A conflicting item belongs to a group from this part of the median of the group's own items on (`Likeness`). On
seeds 0 to 4 of photographs 0.25 finds 87% of the poison with a precision of 93%, 0.4 finds 77% with 98%."""

LEAST_SHARE = 0.01
"""A stronger conflict than that of this share of the items counts as theirs: a few outliers would lead elsewhere."""

BACKGROUND = 5000
"""Sampled items that say how many items are usual around another: 10,000 find the same groups."""

MOST_MEMBERS = 400
"""Items of a group that others are compared with."""

SHARED = 0.5
"""Of two groups that share this much of the smaller one the stronger is reported."""

MOST_GROUPS = 10
MOST_CELLS = 20
"""Cells that what is like them is added to: some end as one group."""

LEAST_STRENGTH = 0.1
"""More than half of clean sets have a stronger group (`levels`): weaker ones say nothing."""


@dataclass(frozen=True)
class Pool:
    """Items of a view that groups are looked for among: all items, or a sample and the items of flagged cells.

    Attributes:
        text: What each says, unit vectors, shape `(n, k)`.
        image: Its image, unit vectors, shape `(n, k)`.
        key: Its image as a number; items with one number do not count for each other, shape `(n,)`.
        share: Share of all items of the data with at least as much conflict, shape `(n,)`.
        weight: How many items of the data each stands for, shape `(n,)`.
        seeds: Items that cores are made of, shape `(m,)`.
        sampled: Items that are a random sample of all, shape `(s,)`.
    """

    text: Vectors
    image: Vectors
    key: Index
    share: Numbers
    weight: Numbers
    seeds: Index
    sampled: Index

    @classmethod
    def of(
        cls, text: Vectors, image: Vectors, key: Index, conflict: Values, odd: float = CONFLICTING
    ) -> Pool:
        """Return the pool of all items of a view; the share `odd` of them counts as conflicting."""
        order = np.argsort(-conflict, kind="stable")
        share = np.empty(len(order))
        share[order] = (np.arange(len(order)) + 1) / max(len(order), 1) * (CONFLICTING / odd)
        seeds = order[: round(SEEDS_AMONG * odd / CONFLICTING * len(order))]
        every = np.arange(len(order))
        return cls(text, image, key, np.minimum(share, 1), np.ones(len(order)), seeds, every)


COUNTED = (
    *("images", "conflicting", "all_conflicting", "near_text", "near_image", "near_both"),
    *("elsewhere_text", "odd_text", "elsewhere_image", "odd_image"),
)


@dataclass(frozen=True)
class Reach(Stored):
    """Where groups are: items near the middle on both sides.

    Attributes:
        text: Middle of the captions of each group, shape `(g, k)`.
        image: Middle of its images, shape `(g, k)`.
        edge: Similarity to the middle above which captions and images are near, shape `(g, 2)`.
        weight: What the strength of its counts is multiplied by (`_weight`), shape `(g,)`.
    """

    text: Vectors
    image: Vectors
    edge: Vectors
    weight: Numbers

    def __len__(self) -> int:
        return len(self.text)

    def near(self, text: Vectors, image: Vectors) -> tuple[npt.NDArray[np.bool_], ...]:
        """Return which items are near each group by their captions, and which by their images, shapes `(n, g)`."""
        return text @ self.text.T > self.edge[:, 0], image @ self.image.T > self.edge[:, 1]

    @classmethod
    def joined(cls, text: int, image: int, parts: Sequence[Reach]) -> Reach:
        """Join groups, none or more, of vectors with `text` and `image` dimensions."""

        def none(*shape: int) -> Vectors:
            return np.empty((0, *shape), dtype=np.float32)

        nothing = cls(none(text), none(image), none(2), np.empty(0))
        every = (nothing, *parts)
        return cls(**{n: np.concatenate([getattr(one, n) for one in every]) for n in vars(nothing)})


@dataclass(frozen=True)
class Likeness(Stored):
    """Says which conflicting items belong to groups, because they are like the items of the groups.

    Of all that is near an item on both sides, on other images, poison has much of its group, and an honest item little,
    for it has honest neighbours. The more an item conflicts, the less it needs. How much is enough the group's own
    items say: as part of the poison, they have as much as the rest of it.

    Attributes:
        text: What the items of the groups say, and those of the background, unit vectors, shape `(m, k)`.
        image: Their images, shape `(m, k)`.
        key: Their images as numbers, shape `(m,)`.
        group: The group of each, -1 for the background, shape `(m,)`.
        mine: How many items of its group each stands for, shape `(m,)`.
        every: How many items each stands for that the background does not have already, shape `(m,)`.
        middle_text: Middle of the captions of each group, shape `(g, k)`.
        middle_image: Middle of its images, shape `(g, k)`.
        floor: The least similarity of its items to the two, shape `(g, 2)`.
        least: What its items have at least, shape `(g,)`.
        strength: How strong it is, shape `(g,)`.
    """

    text: Vectors
    image: Vectors
    key: Index
    group: Index
    mine: Numbers
    every: Numbers
    middle_text: Vectors
    middle_image: Vectors
    floor: Vectors
    least: Numbers
    strength: Numbers

    def of(self, text: Vectors, image: Vectors, key: Index, share: Numbers) -> Numbers:
        """Compute how far items belong to each group: from 1 on they do, shape `(n, g)`.

        Args:
            text: What each says, unit vectors, shape `(n, k)`.
            image: Its image, shape `(n, k)`.
            key: Its image as a number, shape `(n,)`.
            share: Share of all items with at least as much conflict, shape `(n,)`.
        """
        found = np.zeros((len(text), len(self.least)))
        around = (text @ self.middle_text.T >= self.floor[:, 0]) & (
            image @ self.middle_image.T >= self.floor[:, 1]
        )
        rows = np.flatnonzero(around.any(axis=1) & (share <= CONFLICTING))
        usual = np.where(self.group < 0, self.every, 0)
        for some in (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)):
            near = _near(text[some], image[some], key[some], self.text, self.image, self.key)
            rest = near @ usual
            for group, least in enumerate(self.least):
                of = np.flatnonzero(self.group == group)
                part = _part(near[:, of], self.mine[of], rest + near[:, of] @ self.every[of])
                found[some, group] = _demanding(part, share[some]) / least
        return found * around


def _near(
    text: Vectors, image: Vectors, key: Index, others: Vectors, images: Vectors, keys: Index
) -> Vectors:
    """Return how far items count for others: captions and images together; those of one image do not."""
    near = np.exp(np.float32(NEARNESS) * (text @ others.T + image @ images.T - 2))
    near[key[:, None] == keys] = 0
    return np.asarray(near, dtype=np.float32)


def _part(near: Vectors, mine: Numbers, every: Numbers) -> Numbers:
    return np.asarray(near @ mine / np.maximum(every, 1e-12))


def _demanding(part: Numbers, share: Numbers) -> Numbers:
    """Return the part of a group around items, more where they conflict more."""
    return np.asarray(part / np.sqrt(np.maximum(share, LEAST_SHARE)))


def count_cell(
    near_text: npt.NDArray[np.bool_],
    near_image: npt.NDArray[np.bool_],
    key: Index,
    odd: npt.NDArray[np.bool_],
    weight: Numbers,
) -> Numbers:
    """Count the images of a group and around it, in the order of `COUNTED`; counts of shards are added.

    Args:
        near_text: Whether captions are near its middle, shape `(n,)`.
        near_image: Whether images are, shape `(n,)`.
        key: Image of each item, shape `(n,)`.
        odd: Whether each conflicts, shape `(n,)`.
        weight: How many items each stands for, shape `(n,)`.
    """

    def images(which: npt.NDArray[np.bool_]) -> float:
        rows = np.flatnonzero(which)
        return float(weight[rows[np.unique(key[rows], return_index=True)[1]]].sum())

    inside = near_text & near_image
    around = ~np.isin(key, key[inside])
    elsewhere = [side & around for side in (near_text, near_image)]
    return np.array(
        [
            images(inside),
            images(inside & odd),
            images(odd),
            *(images(side & odd) for side in (near_text, near_image, inside)),
            *(images(which) for side in elsewhere for which in (side, side & odd)),
        ]
    )


def expected_share(counts: Numbers) -> float:
    """Return the share of a group's images that would conflict without poison.

    Captions like these conflict elsewhere, and images like these do, and the one has nothing to do with the other.
    """
    found = dict(zip(COUNTED, counts, strict=True))
    text, image = (
        (found[f"odd_{side}"] + PRIOR * CONFLICTING) / (found[f"elsewhere_{side}"] + PRIOR)
        for side in ("text", "image")
    )
    return float(np.clip(text + image - text * image, EXPECTED, EXPECTED_AT_MOST))


def strength_of(counts: Numbers, weight: float) -> float:
    """Compute how strong a group is, from the counts of all its data: at least 0, and 0 on fewer than five images.

    Two questions, minus log10 of the probability of each: how likely are so many conflicting images in the cell, if
    they conflict as often as elsewhere (binomial)? How likely do so many conflicting images lie near both middles, if
    conflicting captions and conflicting images meet at random (Fisher)? Their geometric mean is multiplied by the share
    that conflicts beyond the expected one, and by `weight`.

    Args:
        counts: In the order of `COUNTED`.
        weight: As `_weight` gives it.
    """
    from scipy.stats import binom, hypergeom

    images, odd, total, text, image, both = np.round(counts[:6])
    if images < FEWEST_IMAGES or not odd:
        return 0.0
    expected = expected_share(counts)
    excess = max(0.0, odd / images - expected) / (1 - EXPECTED)
    inside = binom.logsf(odd - 1, images, expected)
    meeting = hypergeom.logsf(max(both, 1) - 1, total, max(text, 1), max(image, 1))
    logs = (max(0.0, min(float(-one / np.log(10)), 300.0)) for one in (inside, meeting))
    return float(excess * weight * np.sqrt(np.prod(list(logs))))


@dataclass(frozen=True)
class Grown:
    """Groups of a pool, the strongest first.

    Attributes:
        reach: Where their cells are.
        strength: Of each, shape `(g,)`.
        rows: Items of each.
        cell_strength: What each has by its cell alone, shape `(g,)`.
        likeness: What makes an item one of theirs.
    """

    reach: Reach
    strength: Numbers
    rows: tuple[Index, ...]
    cell_strength: Numbers
    likeness: Likeness


@dataclass(frozen=True)
class _Cell:
    """A core that has grown: its items, strength, counts and reach."""

    rows: Index
    strength: float
    counts: Numbers
    reach: Reach


def grow_groups(pool: Pool, cores: int = CORES) -> Grown:
    """Find groups in a pool, at most ten.

    Args:
        pool: The items.
        cores: How many cores are grown.
    """
    odd = pool.share <= CONFLICTING
    calm = np.flatnonzero(pool.share > 1 - CALM)
    sampled = pool.sampled[:: max(1, -(-len(pool.sampled) // MEASURED_ON))]
    cells = []
    for core, used in _cores(pool, cores):
        cell = _grown(pool, core, odd, calm, sampled)
        used[np.isin(pool.seeds[: len(used)], cell.rows)] = True
        cells.append(cell)
    cells = [cell for cell in cells if cell.strength > 0 and odd[cell.rows].any()]
    order = distinct_groups([cell.strength for cell in cells], [cell.rows for cell in cells])
    cells = [cells[number] for number in order[:MOST_CELLS]]
    joining = _Joining(pool)
    rows = [joining.whole(cell.rows) for cell in cells]
    weights = [_weight(pool, some, calm) for some in rows]
    strength = [
        strength_of(cell.counts, weight) for cell, weight in zip(cells, weights, strict=True)
    ]
    order = [
        number for number in distinct_groups(strength, rows) if strength[number] >= LEAST_STRENGTH
    ]
    order = order[:MOST_GROUPS]
    chosen = [replace(cells[n].reach, weight=np.array([weights[n]])) for n in order]
    return Grown(
        Reach.joined(pool.text.shape[1], pool.image.shape[1], chosen),
        np.array([strength[number] for number in order]),
        tuple(rows[number] for number in order),
        np.array([cells[number].strength for number in order]),
        joining.likeness([rows[n] for n in order], [cells[n].strength for n in order]),
    )


class _Joining:
    """Adds to cells what is like them, among the conflicting items of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._odd = pool, np.flatnonzero(pool.share <= CONFLICTING)
        step = max(1, -(-len(pool.sampled) // BACKGROUND))
        self._background = pool.sampled[::step]
        # of an item, how many items the background says for it
        self._usual = np.zeros(len(pool.key))
        self._usual[self._background] = pool.weight[self._background] * step
        self._rest = np.concatenate(
            [
                self._near(some, self._background) @ self._usual[self._background]
                for some in (
                    self._odd[start : start + BLOCK] for start in range(0, len(self._odd), BLOCK)
                )
            ]
            or [np.empty(0)]
        )

    def _near(self, rows: Index, others: Index) -> Vectors:
        text, image, key = self._pool.text, self._pool.image, self._pool.key
        return _near(text[rows], image[rows], key[rows], text[others], image[others], key[others])

    def _of(self, group: Index) -> tuple[Numbers, float, Index, Numbers]:
        """Return what each conflicting item has of a group, what is enough, and the compared items and weights."""
        few = group[:: max(1, -(-len(group) // MOST_MEMBERS))]
        mine = self._pool.weight[few] * (len(group) / len(few))
        near = self._near(self._odd, few)
        part = _part(near, mine, self._rest + near @ (mine - self._usual[few]))
        has = _demanding(part, self._pool.share[self._odd])
        own = np.isin(self._odd, group)
        return has, LIKE * float(np.median(has[own])), few, mine

    def whole(self, cell: Index) -> Index:
        """Return the conflicting items of a cell and those that are like them."""
        group = np.intersect1d(cell, self._odd)
        for _ in range(ROUNDS):
            has, least, _, _ = self._of(group)
            more = np.union1d(group, self._odd[has >= least])
            if len(more) == len(group):
                break
            group = more
        return group

    def likeness(self, groups: Sequence[Index], strength: Sequence[float]) -> Likeness:
        """Return what makes an item of any shard one of some groups."""
        pool, back = self._pool, self._background
        found = [self._of(group) for group in groups]
        items = np.concatenate([*(few for _, _, few, _ in found), back]).astype(np.intp)
        none = np.empty((0, pool.text.shape[1])), np.empty((0, pool.image.shape[1]))
        middles = [
            np.array([unit(side[group].mean(axis=0)) for group in groups] or empty, np.float32)
            for side, empty in zip((pool.text, pool.image), none, strict=True)
        ]
        floor = [
            [
                float((side[group] @ middle[n]).min())
                for side, middle in zip((pool.text, pool.image), middles, strict=True)
            ]
            for n, group in enumerate(groups)
        ]
        return Likeness(
            pool.text[items],
            pool.image[items],
            pool.key[items],
            np.concatenate(
                [
                    *(np.full(len(few), n) for n, (_, _, few, _) in enumerate(found)),
                    np.full(len(back), -1),
                ]
            ),
            np.concatenate([*(mine for _, _, _, mine in found), np.zeros(len(back))]),
            np.concatenate(
                [*(mine - self._usual[few] for _, _, few, mine in found), self._usual[back]]
            ),
            middles[0],
            middles[1],
            np.array(floor, np.float32).T.reshape(len(groups), 2),
            np.array([max(least, 1e-12) for _, least, _, _ in found]),
            np.array(strength),
        )


def _overlap(one: Index, other: Index) -> bool:
    return len(np.intersect1d(one, other)) > SHARED * min(len(one), len(other))


def _alike(pool: Pool) -> tuple[Index, Vectors, Values]:
    """Compare the seeds of a pool with each other.

    Returns:
        The seeds that are compared; how far they count for each other, 0 for those of one image, shape `(m, m)`; and
        how many would be alike to each if captions and images had nothing to do with each other, shape `(m,)`.
    """
    seeds = pool.seeds[:MOST_SEEDS]
    text, image, key = pool.text[seeds], pool.image[seeds], pool.key[seeds]
    other = key[:, None] != key
    near, right = (np.exp(NEARNESS * (side @ side.T - 1)) * other for side in (text, image))
    expected = near.sum(axis=1) * right.sum(axis=1) / max(len(seeds), 1)
    near *= right
    return seeds, near, expected


def suspicious_items(pool: Pool, share: float) -> Index:
    """Return the items with the most alike conflicting ones, against how many would be by chance.

    Args:
        pool: The items.
        share: Share of all items that is returned, at most.
    """
    seeds, near, expected = _alike(pool)
    excess = _excess(near.sum(axis=1), expected) * _vouched(pool, seeds)
    return seeds[np.argsort(-excess, kind="stable")[: round(share * len(pool.key))]]


def _excess(found: Values, expected: Values) -> Values:
    return (found + FEW) / (expected + EXPECTED_AT_LEAST)


def _vouched(pool: Pool, seeds: Index) -> Values:
    """Return the share of captions like those of some items that do not conflict, in (0, 1), shape `(m,)`.

    Who attacks sheep finds captions about sheep that are right. Where most captions like these conflict, the honest
    items of a kind may be those that conflict.
    """
    right, odd = (
        _alike_captions(pool, seeds, np.flatnonzero(which))
        for which in (pool.share > SEEDS_AMONG, pool.share <= SEEDS_AMONG)
    )
    return np.asarray((right + FEW) / (right + odd + FEW), dtype=np.float32)


def _alike_captions(pool: Pool, rows: Index, others: Index) -> Numbers:
    """Count how many of some other items have captions like those of some rows, shape `(m,)`."""
    step = max(1, -(-len(others) // MEASURED_ON))
    few = others[::step]
    found = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        near = np.exp(CAPTION_NEARNESS * (pool.text[rows[block]] @ pool.text[few].T - 1))
        found[block] = step * (near @ pool.weight[few])
    return found


def _cores(pool: Pool, most: int) -> Iterator[tuple[Index, npt.NDArray[np.bool_]]]:
    """Yield cores, the densest first against what independent sides would give, and which seeds are used up.

    Whoever takes a core marks the seeds that it grew to: they are in no later core.
    """
    seeds, near, expected = _alike(pool)
    found, vouched = near.sum(axis=1), _vouched(pool, seeds)
    used = np.zeros(len(seeds), dtype=bool)
    for _ in range(min(most, len(seeds))):
        before = used.copy()
        excess = np.where(used, -1, _excess(found, expected) * vouched)
        if excess.max() < 0:
            return
        middle = int(excess.argmax())
        core = (near[middle] > IN_CORE) & ~used
        core[middle] = True
        used |= core
        yield seeds[core], used
        found -= near[:, used & ~before].sum(axis=1)


def _grown(
    pool: Pool,
    core: Index,
    odd: npt.NDArray[np.bool_],
    calm: Index,
    sampled: Index,
) -> _Cell:
    """Grow a core at each edge, and return the strongest cell."""
    sides = (pool.text, pool.image)
    middles = [np.repeat(unit(side[core].mean(axis=0))[None], len(EDGES), axis=0) for side in sides]
    members = [core] * len(EDGES)
    for _ in range(ROUNDS):
        used = [middle.copy() for middle in middles]
        alike = [side @ middle.T for side, middle in zip(sides, middles, strict=True)]
        cuts = np.stack([_cut(one[sampled]) for one in alike], axis=1)
        inside = (alike[0] > cuts[:, 0]) & (alike[1] > cuts[:, 1])
        for number in range(len(EDGES)):
            rows = np.flatnonzero(inside[:, number])
            if len(rows) > 1:
                members[number] = rows
                for side, middle in zip(sides, middles, strict=True):
                    middle[number] = unit(side[rows].mean(axis=0))
    best: _Cell | None = None
    for number, rows in enumerate(members):
        if best is not None and odd[rows].mean() < EXPECTED / 2:
            continue  # a usual cell: its images conflict no more than others
        near = [one[:, number] > cuts[number, i] for i, one in enumerate(alike)]
        counts = count_cell(near[0], near[1], pool.key, odd, pool.weight)
        strength = strength_of(counts, 1.0)
        if best is None or strength > best.strength:
            misplaced = _misplaced(pool, rows, calm)[0]
            if best is None or strength * misplaced > best.strength:
                reach = Reach(
                    used[0][number][None],
                    used[1][number][None],
                    cuts[number][None].astype(np.float32),
                    np.array([misplaced]),
                )
                best = _Cell(rows, strength * misplaced, counts, reach)
    assert best is not None
    return best


def _cut(alike: Vectors) -> Vectors:
    """Return the similarity at each edge, shape `(e,)`."""
    middle, top = np.median(alike, axis=0), np.percentile(alike, 99.5, axis=0)
    return np.asarray(middle + np.asarray(EDGES) * np.maximum(top - middle, 1e-6), np.float32)


def _weight(pool: Pool, rows: Index, calm: Index) -> float:
    """Compute how far a group speaks of two kinds that have nothing to do with each other: at least 0, mostly below 2.

    Its captions must belong to images of another kind; the captions of images like its own must say something else, as
    titles of cufflinks and of earrings, or of the tricks of cyclists and of skaters, do not; its items must conflict
    more than conflicting items do on average; and they must be on more images than make no group.
    """
    misplaced, said = _misplaced(pool, rows, calm)
    surprise = -float(np.log10(pool.share[rows]).mean()) - USUAL_SURPRISE
    large = 1 - (FEWEST_IMAGES - 1) / len(np.unique(pool.key[rows]))
    return misplaced * (1 - max(said, 0.0)) * max(surprise, 0.0) * max(large, 0.0)


def _misplaced(pool: Pool, rows: Index, calm: Index) -> tuple[float, float]:
    """Compute how far captions like those of a group belong to images of another kind, in [0, 1].

    Poison misuses captions that have a meaning in the data, on images of a kind that has captions of its own. Captions
    that are only ever with these images name these images: a rare topic, or a word that the text encoder does not know.
    So it is 1 where as many calm captions as the group has items are on its topic, as many calm images are of its kind,
    and the images of the former have nothing in common with those of the group.

    Returns:
        That, and how similar the captions of such images are to the group's own, in [-1, 1].
    """
    if not len(calm):
        return 0.0, 0.0
    share = float(pool.weight[rows].sum()) / max(float(pool.weight[calm].sum()), 1e-9)
    count = min(max(round(share * len(calm)), FEWEST_CALM), len(calm))
    topic, place = (unit(side[rows].mean(axis=0)) for side in (pool.text, pool.image))
    same, homes = 1.0, []
    for side, other, middle, (low, high) in (
        (pool.image, pool.text, place, SAME_KIND),
        (pool.text, pool.image, topic, SAME_TOPIC),
    ):
        alike = side[calm] @ middle
        nearest = np.argpartition(-alike, count - 1)[:count]
        same *= float(np.clip((alike[nearest].mean() - low) / (high - low), 0, 1))
        homes.append(unit(other[calm[nearest]].mean(axis=0)))
    said, home = homes  # captions of such images, and images of such captions
    return same * float(np.clip(1 - home @ place, 0, 1)), float(said @ topic)


def distinct_groups(strength: Sequence[float], rows: Sequence[Index]) -> list[int]:
    """Return the groups, the strongest first, without those that share half of their rows with a stronger one."""
    chosen: list[int] = []
    for number in np.argsort(-np.asarray(strength), kind="stable").tolist():
        if not any(_overlap(rows[number], rows[other]) for other in chosen):
            chosen.append(number)
    return chosen
