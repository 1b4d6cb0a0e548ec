"""Finds groups: conflicting items that are alike on both sides, grown to all items near their middle.

A core is a few conflicting items with captions alike and images alike. It grows to all items near its middle on both
sides, whether they conflict or not. An honest confusion grows into a cell of which few items conflict; nearly all of a
poisoned cell does, while captions like its own elsewhere, and images like its own elsewhere, do not.

A cell is the middle of the poison. The rest is like it: captions like its captions with images like its images
(`Likeness`). What is called a group, graded and dropped is the cell with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES
from mmpoison.defenses.scan.read.vector_shard import Index, Stored, Values, Vectors, unit

Numbers = npt.NDArray[np.float64]

# -- What decides which groups are found. Chosen on seeds 0 to 4 of photographs; decision 0035 has a table of what a
# fifth more or less of each changes.

CONFLICTING = 0.2
"""Share of the items that count as conflicting, those with the most conflict; false pairs are among them."""

SEEDS_AMONG = 0.15
"""Share of the items, those with the most conflict, that cores are made of."""

CALM = 0.9
"""Share of the items that say what is usual, those with the least conflict: poison is not among them."""

NEARNESS = 5.0
"""Two items count for each other by exp(5 (cosine - 1)) of their captions and the same of their images."""

CAPTION_NEARNESS = 20.0
"""As `NEARNESS`, for captions that say the same."""

IN_CORE = float(np.exp(-0.8 * NEARNESS))
"""An item belongs to a core from this nearness to its middle, captions and images together."""

FEW, EXPECTED_AT_LEAST = 0.1, 0.5
"""Are added to the numbers of alike items, found and expected, so that single items do not count."""

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
"""How near the middle an item must be on both sides, on a scale from 0, the median of all items, to 1, their upper half
percent: the edge at which the group is strongest is taken, because kinds are of different width. A kind of a large set
has less than half a percent of it: there the wide edges would reach other kinds."""

EXPECTED = 0.3
"""Share of a cell that conflicts by itself, at least: cells were found by their conflict."""

SAME_TOPIC = (0.5, 0.8)
"""Mean cosine below which captions are on different topics, and from which they are on one; topics are at about 0."""

SAME_KIND = (0.3, 0.6)
"""The same of images."""

LIKE = 0.3
"""A conflicting item belongs to a group from this part of the median of the group's own items on (`Likeness`)."""

LEAST_SHARE = 0.01
"""A stronger conflict than that of this share of the items counts as theirs: a few outliers would lead elsewhere."""

SHARED = 0.5
"""Of two groups that share this much of the smaller one the stronger is reported."""

LEAST_STRENGTH = 0.1
"""More than half of clean sets have a stronger group (`levels`): weaker ones say nothing."""

# -- What follows from those.

USUAL_SURPRISE = float(1 / np.log(10) - np.log10(CONFLICTING))
"""Mean of -log10 of the share of items that conflict as much, of conflicting items without anything special."""

# -- Limits of time and memory: larger ones find the same groups.

MOST_SEEDS = 4000
CORES = 100
"""Cores that are grown: a weak core may grow into a strong group."""

BLOCK = 512
"""Rows that are compared at a time."""

ROUNDS = 3
"""How often the middle of a cell moves, and how often a group takes what is like it."""

MEASURED_ON = 10_000
"""Items that the scale of nearness is measured on."""

BACKGROUND = 5000
"""Sampled items that say how many items are usual around another."""

MOST_MEMBERS = 400
"""Items of a group that others are compared with."""

MOST_GROUPS = 10
MOST_CELLS = 20
"""Cells that what is like them is added to: some end as one group."""


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
class Likeness(Stored):
    """Says which conflicting items belong to groups, because they are like the items of the groups.

    Of all that is near an item on both sides, on other images, poison has much of its group, and an honest item little,
    for it has honest neighbours. The more an item conflicts, the less it needs. How much is enough the group's own
    items say: as part of the poison, they have as much as the rest of it.

    Attributes:
        both: Captions and images of the items of the groups, then of the background, unit vectors, shape `(m, k + l)`.
        key: Their images as numbers, shape `(m,)`.
        mine: How many items of each group each stands for, shape `(m, g)`.
        every: How many items each stands for in the company of each group, shape `(m, g)`.
        middle: Middle of the captions and of the images of each group, unit vectors, shape `(g, k + l)`.
        floor: The least similarity of its captions and of its images to those, shape `(g, 2)`.
        least: What its items have at least, shape `(g,)`.
        strength: How strong its cell is, shape `(g,)`.
    """

    both: Vectors
    key: Index
    mine: Vectors
    every: Vectors
    middle: Vectors
    floor: Vectors
    least: Numbers
    strength: Numbers

    def of(self, text: Vectors, image: Vectors, key: Index, share: Numbers) -> Numbers:
        """Compute how far items belong to each group: from 1 on they do, shape `(n, g)`.

        Args:
            text: What each says, unit vectors, shape `(n, k)`.
            image: Its image, shape `(n, l)`.
            key: Its image as a number, shape `(n,)`.
            share: Share of all items with at least as much conflict, shape `(n,)`.
        """
        texts, images = np.split(self.middle, [text.shape[1]], axis=1)
        around = (text @ texts.T >= self.floor[:, 0]) & (image @ images.T >= self.floor[:, 1])
        found = np.zeros(around.shape)
        rows = np.flatnonzero(around.any(axis=1) & (share <= CONFLICTING))
        for some in (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)):
            both = np.concatenate([text[some], image[some]], axis=1)
            near = _near(both, key[some], self.both, self.key)
            part = _part(near @ self.mine, near @ self.every, share[some, None])
            found[some] = part / self.least
        return found * around


def _near(both: Vectors, key: Index, others: Vectors, keys: Index) -> Vectors:
    """Return how far items count for others: captions and images together; those of one image do not."""
    near = np.exp(np.float32(NEARNESS) * (both @ others.T - 2))
    near[key[:, None] == keys] = 0
    return np.asarray(near, dtype=np.float32)


def _part(mine: Vectors, every: Vectors, share: Numbers) -> Numbers:
    """Return the part that a group has around items, more where they conflict more."""
    return np.asarray(mine / np.maximum(every, 1e-12) / np.sqrt(np.maximum(share, LEAST_SHARE)))


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

    Captions like these conflict elsewhere, and images like these do, and the one has nothing to do with the other. Few
    of them say little: the share of all items counts as five more.
    """
    found = dict(zip(COUNTED, counts, strict=True))
    text, image = (
        (found[f"odd_{side}"] + FEWEST_IMAGES * CONFLICTING)
        / (found[f"elsewhere_{side}"] + FEWEST_IMAGES)
        for side in ("text", "image")
    )
    return float(max(text + image - text * image, EXPECTED))


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
        strength: Of each, shape `(g,)`.
        counts: Of the cell of each (`COUNTED`), shape `(g, 10)`.
        rows: Items of each.
        places: Middle of the images of each, shape `(g, l)`.
        likeness: What makes an item one of theirs, with the strength of each cell.
    """

    strength: Numbers
    counts: Numbers
    rows: tuple[Index, ...]
    places: Vectors
    likeness: Likeness


@dataclass(frozen=True)
class _Cell:
    """A core that has grown: its items, strength and counts."""

    rows: Index
    strength: float
    counts: Numbers


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
    likeness = joining.likeness([rows[n] for n in order], [cells[n].strength for n in order])
    return Grown(
        np.array([strength[number] for number in order]),
        np.array([cells[number].counts for number in order]).reshape(len(order), len(COUNTED)),
        tuple(rows[number] for number in order),
        likeness.middle[:, pool.text.shape[1] :],
        likeness,
    )


class _Joining:
    """Adds to cells what is like them, among the conflicting items of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._odd = pool, np.flatnonzero(pool.share <= CONFLICTING)
        self._both = np.concatenate([pool.text, pool.image], axis=1)
        step = max(1, -(-len(pool.sampled) // BACKGROUND))
        self._background = pool.sampled[::step]
        # of an item, how many items the background says for it
        self._usual = np.zeros(len(pool.key), dtype=np.float32)
        self._usual[self._background] = pool.weight[self._background] * step
        self._rest = np.zeros(len(self._odd), dtype=np.float32)
        for start in range(0, len(self._odd), BLOCK):
            some = slice(start, start + BLOCK)
            near = self._near(self._odd[some], self._background)
            self._rest[some] = near @ self._usual[self._background]

    def _near(self, rows: Index, others: Index) -> Vectors:
        both, key = self._both, self._pool.key
        return _near(both[rows], key[rows], both[others], key[others])

    def _of(self, group: Index) -> tuple[Numbers, float, Index, Vectors]:
        """Return what each conflicting item has of a group, what is enough, and the compared items and weights."""
        few = group[:: max(1, -(-len(group) // MOST_MEMBERS))]
        mine = (self._pool.weight[few] * (len(group) / len(few))).astype(np.float32)
        near = self._near(self._odd, few)
        every = self._rest + near @ (mine - self._usual[few])
        has = _part(near @ mine, every, self._pool.share[self._odd])
        least = LIKE * float(np.median(has[np.isin(self._odd, group)]))
        return has, max(least, 1e-12), few, mine

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
        found, back = [self._of(group) for group in groups], self._background
        items = np.concatenate([*(few for _, _, few, _ in found), back]).astype(np.intp)
        mine = np.zeros((len(items), len(groups)), dtype=np.float32)
        every = np.where(np.arange(len(items)) < len(items) - len(back), 0, self._usual[items])
        every = np.tile(every[:, None], len(groups))
        end = 0
        for n, (_, _, few, weight) in enumerate(found):
            start, end = end, end + len(few)
            mine[start:end, n], every[start:end, n] = weight, weight - self._usual[few]
        width = self._pool.text.shape[1]
        middle = np.empty((len(groups), self._both.shape[1]), dtype=np.float32)
        floor = np.empty((len(groups), 2), dtype=np.float32)
        for n, group in enumerate(groups):
            for at, side in enumerate((slice(None, width), slice(width, None))):
                middle[n, side] = unit(self._both[group, side].mean(axis=0))
                alike = self._both[group, side] @ middle[n, side]
                floor[n, at] = alike.min() - 1e-5  # the last digits of other sums differ
        return Likeness(
            self._both[items],
            self._pool.key[items],
            mine,
            every,
            middle,
            floor,
            np.array([least for _, least, _, _ in found]),
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
                best = _Cell(rows, strength * misplaced, counts)
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
    count = min(max(round(share * len(calm)), FEWEST_IMAGES), len(calm))
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
