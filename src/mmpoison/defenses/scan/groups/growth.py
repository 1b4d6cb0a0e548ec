"""Finds groups: conflicting items that are alike on both sides, grown to all items near their centre.

A core is a few conflicting items with similar captions and similar images. It grows to all items near its centre on
both sides, whether they conflict or not. In the cell of an honest confusion, few items conflict. In a poisoned cell
nearly all do, while similar captions elsewhere, and similar images elsewhere, do not.

A cell is the centre of the poison. The rest is similar: captions like its captions with images like its images
(`Likeness`). A group, which is graded and dropped, is the cell with this rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES
from mmpoison.defenses.scan.read.vector_shard import Index, Stored, Values, Vectors, unit

Numbers = npt.NDArray[np.float64]

# -- Parameters that decide which groups are found. Chosen on seeds 0 to 4 of photographs; decision 0035 has a table of
# the effect of changing each by 20%.

CONFLICTING = 0.2
"""Share of items, those with the most conflict, that count as conflicting; false pairs are among them."""

SEEDS_AMONG = 0.15
"""Share of items, those with the most conflict, from which cores are formed."""

CALM = 0.9
"""Share of items, those with the least conflict, that define what is usual; poison is not among them."""

NEARNESS = 5.0
"""Decay of the similarity weight of two items: exp(5 (cosine - 1)) of their captions times the same of their images."""

CONTEXT_NEARNESS = 10.0
"""As `NEARNESS`, for captions and the other captions of their images."""

CAPTION_NEARNESS = 20.0
"""As `NEARNESS`, for captions with the same meaning."""

IN_CORE = float(np.exp(-0.8 * NEARNESS))
"""Minimum nearness to a core's centre, captions and images together, for an item to belong to it."""

FEW, EXPECTED_AT_LEAST = 0.1, 0.5
"""Added to the found and expected numbers of similar items, so that single items have little weight."""

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
"""Required nearness to the centre on both sides, on a scale from 0 (median of all items) to 1 (their top 0.5%).

The edge with the strongest group is used, because kinds differ in width. In a large set a kind has less than 0.5% of
the items, and wide edges would reach other kinds.
"""

EXPECTED = 0.3
"""Minimum expected share of conflicting items in a cell, because cells are found by their conflict."""

LARGE, MIXED = 8000, 10.0
"""From 8,000 conflicting images on, more meetings by chance are expected, up to ten times as many.

Most conflicting images are odd examples of their own topic; only strays meet other captions by chance. So captions and
images of strays meet 3 to 6 times as often as those of all conflicting images would (synthetic sets, 3% of strays). In
smaller sets these are few pairs, which the levels allow for. Chosen on clean synthetic sets of a million pairs, seeds 0
to 4.
"""

SAME_TOPIC = (0.5, 0.8)
"""Mean cosines below which captions have different topics, and from which they share one; 0 means unrelated."""

SAME_KIND = (0.3, 0.6)
"""The same for images."""

LIKE = 0.3
"""Fraction of the median over a group's own items from which a conflicting item belongs to the group (`Likeness`)."""

LEAST_SHARE = 0.01
"""Cap on conflict: stronger conflict counts like that of this share of items, so that a few outliers do not mislead."""

SHARED = 0.5
"""If two groups share this fraction of the smaller one, only the stronger is reported."""

LEAST_STRENGTH = 0.1
"""Minimum strength of a group. More than half of clean sets have a stronger one (`levels`)."""

# -- Values derived from those.

USUAL_SURPRISE = float(1 / np.log(10) - np.log10(CONFLICTING))
"""Mean of -log10 of the share of items with at least as much conflict, over ordinary conflicting items."""

# -- Limits on time and memory; larger values find the same groups.

MOST_SEEDS = 4000
CORES = 100
"""Number of cores to grow: a weak core may grow into a strong group."""

BLOCK = 512
"""Rows compared at a time."""

ROUNDS = 3
"""Iterations of moving a cell's centre, and of adding similar items to a group."""

MEASURED_ON = 10_000
"""Items used to measure the nearness scale."""

BACKGROUND = 5000
"""Sampled items that measure the usual number of items around another."""

MOST_MEMBERS = 400
"""Maximum number of items of a group that others are compared with."""

MOST_GROUPS = 10
MOST_CELLS = 20
"""Maximum number of cells to which similar items are added; some end up as one group."""


@dataclass(frozen=True)
class Pool:
    """Candidate items for group search in a view: all items, or a sample and the items of flagged cells.

    Attributes:
        text: Caption vectors, unit length, shape `(n, k)`.
        image: Image vectors, unit length, shape `(n, k)`.
        key: Image number of each item, shape `(n,)`; items with the same number do not count for each other.
        share: Share of all items in the data with at least as much conflict, shape `(n,)`.
        weight: Number of items in the data that each represents, shape `(n,)`.
        seeds: Items from which cores are formed, shape `(m,)`.
        sampled: Items in a random sample of all items, shape `(s,)`.
        context: As in `items.Items`; None if not known.
    """

    text: Vectors
    image: Vectors
    key: Index
    share: Numbers
    weight: Numbers
    seeds: Index
    sampled: Index
    context: Vectors | None = None

    @classmethod
    def of(
        cls, text: Vectors, image: Vectors, key: Index, conflict: Values, odd: float = CONFLICTING
    ) -> Pool:
        """Return the pool of all items of a view. The share `odd` of them counts as conflicting."""
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
    """Decides which conflicting items belong to groups because they resemble the groups' items.

    Among the neighbours of an item (on both sides, on other images), a poisoned item has many from its group; an honest
    item has few, because it has honest neighbours. The more an item conflicts, the fewer it needs. The group's own
    items set the threshold: as part of the poison, they have as many as the rest of it.

    Attributes:
        both: Caption and image vectors of the groups' items, then of the background, unit length, shape `(m, k + l)`.
        key: Their image numbers, shape `(m,)`.
        mine: Number of items of each group that each represents, shape `(m, g)`.
        every: Number of items that each represents in comparison with each group, shape `(m, g)`.
        middle: Caption and image centres of each group, unit vectors, shape `(g, k + l)`.
        floor: Minimum similarity of a group's captions and images to its centres, shape `(g, 2)`.
        least: Minimum group fraction of a member, shape `(g,)`.
        nearness: Decay of the similarity weight, as `NEARNESS`.
    """

    both: Vectors
    key: Index
    mine: Vectors
    every: Vectors
    middle: Vectors
    floor: Vectors
    least: Numbers
    nearness: float

    def of(self, text: Vectors, image: Vectors, key: Index, share: Numbers) -> Numbers:
        """Compute how strongly items belong to each group, shape `(n, g)`; from 1 on they are members.

        Args:
            text: Caption vectors, unit length, shape `(n, k)`.
            image: Image vectors, shape `(n, l)`.
            key: Image number of each item, shape `(n,)`.
            share: Share of all items with at least as much conflict, shape `(n,)`.
        """
        texts, images = np.split(self.middle, [text.shape[1]], axis=1)
        around = (text @ texts.T >= self.floor[:, 0]) & (image @ images.T >= self.floor[:, 1])
        found = np.zeros(around.shape)
        rows = np.flatnonzero(around.any(axis=1) & (share <= CONFLICTING))
        for some in (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)):
            both = np.concatenate([text[some], image[some]], axis=1)
            near = _near(both, key[some], self.both, self.key, self.nearness)
            part = _part(near @ self.mine, near @ self.every, share[some, None])
            found[some] = part / self.least
        return found * around


def _near(
    both: Vectors, key: Index, others: Vectors, keys: Index, nearness: float = NEARNESS
) -> Vectors:
    """Return similarity weights between items, from both sides together; zero for items of the same image."""
    near = np.exp(np.float32(nearness) * (both @ others.T - 2))
    near[key[:, None] == keys] = 0
    return np.asarray(near, dtype=np.float32)


def _part(mine: Vectors, every: Vectors, share: Numbers) -> Numbers:
    """Return the fraction of a group around items, which increases with their conflict."""
    return np.asarray(mine / np.maximum(every, 1e-12) / np.sqrt(np.maximum(share, LEAST_SHARE)))


def count_cell(
    near_text: npt.NDArray[np.bool_],
    near_image: npt.NDArray[np.bool_],
    key: Index,
    odd: npt.NDArray[np.bool_],
    weight: Numbers,
) -> Numbers:
    """Count the images in and around a group, in the order of `COUNTED`. Counts of shards are additive.

    Args:
        near_text: Whether captions are near its centre, shape `(n,)`.
        near_image: Whether images are, shape `(n,)`.
        key: Image of each item, shape `(n,)`.
        odd: Whether each conflicts, shape `(n,)`.
        weight: Number of items that each represents, shape `(n,)`.
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
    """Return the expected share of conflicting images in a group without poison.

    Combines how often similar captions conflict elsewhere and how often similar images do, as independent causes. Small
    counts are shrunk towards the share over all items, which has the weight of five items.
    """
    found = dict(zip(COUNTED, counts, strict=True))
    text, image = (
        (found[f"odd_{side}"] + FEWEST_IMAGES * CONFLICTING)
        / (found[f"elsewhere_{side}"] + FEWEST_IMAGES)
        for side in ("text", "image")
    )
    return float(max(text + image - text * image, EXPECTED))


def strength_of(counts: Numbers, weight: float) -> float:
    """Compute a group's strength from the counts over all data: at least 0, and 0 for fewer than five images.

    Two tests, each as minus log10 of its p-value. Binomial: the number of conflicting images in the cell, if they
    conflict as often as elsewhere. Fisher: the number of conflicting images near both centres, if conflicting captions
    and conflicting images meet at random; a large set has more such meetings (`MIXED`), and more places for them, as
    many times as it is larger on each side. The geometric mean of the two is multiplied by the share of conflicting
    images above the expected share, and by `weight`.

    Args:
        counts: Counts, in the order of `COUNTED`.
        weight: The result of `_weight`.
    """
    from scipy.stats import binom, hypergeom

    images, odd, total, text, image, both = np.round(counts[:6])
    if images < FEWEST_IMAGES or not odd:
        return 0.0
    expected = expected_share(counts)
    excess = max(0.0, odd / images - expected) / (1 - EXPECTED)
    inside = binom.logsf(odd - 1, images, expected)
    larger = max(total / LARGE, 1.0)
    image = min(round(max(image, 1) * min(larger, MIXED)), total)
    meeting = hypergeom.logsf(max(both, 1) - 1, total, max(text, 1), image) + 2 * np.log(larger)
    logs = (max(0.0, min(float(-one / np.log(10)), 300.0)) for one in (inside, meeting))
    return float(excess * weight * np.sqrt(np.prod(list(logs))))


@dataclass(frozen=True)
class Cells(Stored):
    """Regions around centres of groups, which count the images in and around them.

    Counts of shards are additive. A pool of a large set is a sample, in which the few images of a cell that do not
    conflict are easily missed, so strengths are computed from the counts over all rows.

    Attributes:
        middle: Caption and image centres of each cell, unit vectors, shape `(g, k + l)`.
        edge: Similarity to the centres above which captions and images are near, shape `(g, 2)`.
        factors: Weights of the strengths of each cell (`_misplaced`) and group (`_weight`), shape `(g, 2)`.
    """

    middle: Vectors
    edge: Vectors
    factors: Numbers

    def count(self, text: Vectors, image: Vectors, key: Index, share: Numbers) -> Numbers:
        """Count the images in and around each cell, in the order of `COUNTED`, shape `(g, 10)`.

        Args:
            text: Caption vectors, unit length, shape `(n, k)`.
            image: Image vectors, shape `(n, l)`.
            key: Image number of each item, shape `(n,)`.
            share: Share of all items with at least as much conflict, shape `(n,)`.
        """
        texts, images = np.split(self.middle, [text.shape[1]], axis=1)
        near_text = (text @ texts.T > self.edge[:, 0]).T
        near_image = (image @ images.T > self.edge[:, 1]).T
        odd, ones = share <= CONFLICTING, np.ones(len(key))
        near = zip(near_text, near_image, strict=True)
        found = [count_cell(captions, shown, key, odd, ones) for captions, shown in near]
        return np.array(found).reshape(len(self.edge), len(COUNTED))

    def strength(self, counts: Numbers) -> Numbers:
        """Compute the strength of each cell, and of each group, from the counts; shape `(2, g)`."""
        pairs = zip(counts, self.factors.tolist(), strict=True)
        found = [[strength_of(one, factor) for factor in both] for one, both in pairs]
        return np.array(found).reshape(-1, 2).T


@dataclass(frozen=True)
class Grown:
    """Groups of a pool, the strongest first.

    Attributes:
        strength: Strength of each group in the pool, shape `(g,)`.
        cell_strength: Strength of its cell alone, shape `(g,)`.
        cells: The cells.
        rows: Items of each group.
        places: Image centre of each group, shape `(g, l)`.
        likeness: Decides which items belong to the groups.
        by_context: Does the same by the other captions of their images, in place of the images.
    """

    strength: Numbers
    cell_strength: Numbers
    cells: Cells
    rows: tuple[Index, ...]
    places: Vectors
    likeness: Likeness
    by_context: Likeness


@dataclass(frozen=True)
class _Cell:
    """A grown core: its items, strength, counts, and region as in `Cells`."""

    rows: Index
    strength: float
    counts: Numbers
    misplaced: float
    middle: Vectors
    edge: Vectors


def grow_groups(pool: Pool, cores: int = CORES) -> Grown:
    """Find groups in a pool, at most ten.

    Args:
        pool: The items.
        cores: Number of cores to grow.
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
    whole = [rows[n] for n in order]
    likeness = joining.likeness(whole)
    chosen = [cells[n] for n in order]
    return Grown(
        np.array([strength[number] for number in order]),
        np.array([cell.strength for cell in chosen]),
        Cells(
            np.array([cell.middle for cell in chosen], np.float32).reshape(likeness.middle.shape),
            np.array([cell.edge for cell in chosen], np.float32).reshape(len(order), 2),
            np.array([(cells[n].misplaced, weights[n]) for n in order]),
        ),
        tuple(whole),
        likeness.middle[:, pool.text.shape[1] :],
        likeness,
        joining.by_context(whole),
    )


class _Joining:
    """Adds similar conflicting items of a pool to cells."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._odd = pool, np.flatnonzero(pool.share <= CONFLICTING)
        self._both = np.concatenate([pool.text, pool.image], axis=1)
        step = max(1, -(-len(pool.sampled) // BACKGROUND))
        self._background = pool.sampled[::step]
        # number of items that the background represents, per item
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

    def _members(self, group: Index) -> tuple[Index, Vectors]:
        """Return the items of a group that others are compared with, and how many of its items each represents."""
        few = group[:: max(1, -(-len(group) // MOST_MEMBERS))]
        weight = self._pool.weight[few] * (len(group) / max(len(few), 1))
        return few, weight.astype(np.float32)

    def _of(self, group: Index) -> tuple[Numbers, float]:
        """Return the group fraction of each conflicting item, and the threshold."""
        few, mine = self._members(group)
        near = self._near(self._odd, few)
        every = self._rest + near @ (mine - self._usual[few])
        has = _part(near @ mine, every, self._pool.share[self._odd])
        least = LIKE * float(np.median(has[np.isin(self._odd, group)]))
        return has, max(least, 1e-12)

    def whole(self, cell: Index) -> Index:
        """Return the conflicting items of a cell and those similar to them."""
        group = np.intersect1d(cell, self._odd)
        for _ in range(ROUNDS):
            has, least = self._of(group)
            more = np.union1d(group, self._odd[has >= least])
            if len(more) == len(group):
                break
            group = more
        return group

    def likeness(self, groups: Sequence[Index]) -> Likeness:
        """Return the rule that assigns items of any shard to groups."""
        least = np.array([self._of(group)[1] for group in groups])
        return self._rule(groups, self._pool.image, least, NEARNESS)

    def by_context(self, groups: Sequence[Index]) -> Likeness:
        """Return the rule that assigns items by the other captions of their images, whatever the images look like.

        False captions next to the honest captions of another kind stand out, also on an image that is no typical one of
        its kind. An attacker's own images have no honest captions, so they say nothing here: a group whose captions say
        the same as the others of their images gets no items.
        """
        context = self._pool.context
        if context is None:
            context = np.zeros_like(self._pool.text)
        groups = [group[context[group].any(axis=1)] for group in groups]
        least = np.full(len(groups), LIKE / np.sqrt(CONFLICTING))
        rule = self._rule(groups, context, least, CONTEXT_NEARNESS)
        topic, said = np.split(rule.middle, [self._pool.text.shape[1]], axis=1)
        rule.floor[(topic * said).sum(axis=1) >= SAME_TOPIC[1]] = np.inf
        return rule

    def _rule(
        self, groups: Sequence[Index], second: Vectors, least: Numbers, nearness: float
    ) -> Likeness:
        back, sides = self._background, (self._pool.text, second)
        few = [self._members(group) for group in groups]
        items = np.concatenate([*(rows for rows, _ in few), back]).astype(np.intp)
        mine = np.zeros((len(items), len(groups)), dtype=np.float32)
        every = np.where(np.arange(len(items)) < len(items) - len(back), 0, self._usual[items])
        every = np.tile(every[:, None], len(groups))
        end = 0
        for n, (rows, weight) in enumerate(few):
            start, end = end, end + len(rows)
            mine[start:end, n], every[start:end, n] = weight, weight - self._usual[rows]
        middle, floor = [], np.full((len(groups), 2), np.inf, dtype=np.float32)
        for n, group in enumerate(groups):
            centres = [unit(side[group].sum(axis=0)) for side in sides]
            middle.append(np.concatenate(centres))
            for at, (side, centre) in enumerate(zip(sides, centres, strict=True)):
                # other sums differ in the last digits
                floor[n, at] = (side[group] @ centre).min(initial=np.inf) - 1e-5
        both = np.concatenate(sides, axis=1)
        return Likeness(
            both[items],
            self._pool.key[items],
            mine,
            every,
            np.array(middle, np.float32).reshape(len(groups), both.shape[1]),
            floor,
            least,
            nearness,
        )


def _overlap(one: Index, other: Index) -> bool:
    return len(np.intersect1d(one, other)) > SHARED * min(len(one), len(other))


def _alike(pool: Pool) -> tuple[Index, Vectors, Values]:
    """Compare a pool's seeds with each other.

    Returns:
        The compared seeds; their similarity weights, 0 within an image, shape `(m, m)`; and the expected number of
        similar seeds for each if captions and images were independent, shape `(m,)`.
    """
    seeds = pool.seeds[:MOST_SEEDS]
    text, image, key = pool.text[seeds], pool.image[seeds], pool.key[seeds]
    other = key[:, None] != key
    near, right = (np.exp(NEARNESS * (side @ side.T - 1)) * other for side in (text, image))
    expected = near.sum(axis=1) * right.sum(axis=1) / max(len(seeds), 1)
    near *= right
    return seeds, near, expected


def suspicious_items(pool: Pool, share: float) -> Index:
    """Return the items with the most similar conflicting items, relative to chance.

    Args:
        pool: The items.
        share: Largest share of all items to return.
    """
    seeds, near, expected = _alike(pool)
    excess = _excess(near.sum(axis=1), expected) * _vouched(pool, seeds)
    return seeds[np.argsort(-excess, kind="stable")[: round(share * len(pool.key))]]


def _excess(found: Values, expected: Values) -> Values:
    return (found + FEW) / (expected + EXPECTED_AT_LEAST)


def _vouched(pool: Pool, seeds: Index) -> Values:
    """For each item, return the share of similar captions that do not conflict, in (0, 1), shape `(m,)`.

    An attack on sheep leaves other captions about sheep correct. If most similar captions conflict, the conflicting
    items may instead be the honest ones of a kind.
    """
    right, odd = (
        _alike_captions(pool, seeds, np.flatnonzero(which))
        for which in (pool.share > SEEDS_AMONG, pool.share <= SEEDS_AMONG)
    )
    return np.asarray((right + FEW) / (right + odd + FEW), dtype=np.float32)


def _alike_captions(pool: Pool, rows: Index, others: Index) -> Numbers:
    """For each row, count the other items with similar captions, shape `(m,)`."""
    step = max(1, -(-len(others) // MEASURED_ON))
    few = others[::step]
    found = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        near = np.exp(CAPTION_NEARNESS * (pool.text[rows[block]] @ pool.text[few].T - 1))
        found[block] = step * (near @ pool.weight[few])
    return found


def _cores(pool: Pool, most: int) -> Iterator[tuple[Index, npt.NDArray[np.bool_]]]:
    """Yield cores and the used seeds, in order of density relative to independent captions and images.

    The caller marks the seeds that a core grew to, so that no later core contains them.
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
    """Grow a core with each edge, and return the strongest cell."""
    sides = (pool.text, pool.image)
    middles = [np.repeat(unit(side[core].mean(axis=0))[None], len(EDGES), axis=0) for side in sides]
    members = [core] * len(EDGES)
    for _ in range(ROUNDS):
        both = np.concatenate(middles, axis=1)
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
            continue  # an ordinary cell: its images conflict no more than others
        near = [one[:, number] > cuts[number, i] for i, one in enumerate(alike)]
        counts = count_cell(near[0], near[1], pool.key, odd, pool.weight)
        strength = strength_of(counts, 1.0)
        if best is None or strength > best.strength:
            misplaced = _misplaced(pool, rows, calm)[0]
            if best is None or strength * misplaced > best.strength:
                best = _Cell(
                    rows, strength * misplaced, counts, misplaced, both[number], cuts[number]
                )
    assert best is not None
    return best


def _cut(alike: Vectors) -> Vectors:
    """Return the similarity at each edge, shape `(e,)`."""
    middle, top = np.median(alike, axis=0), np.percentile(alike, 99.5, axis=0)
    return np.asarray(middle + np.asarray(EDGES) * np.maximum(top - middle, 1e-6), np.float32)


def _weight(pool: Pool, rows: Index, calm: Index) -> float:
    """Weight a group by how unrelated its captions and images are: at least 0, mostly below 2.

    The weight is high if the captions belong to images of another kind; if captions of similar images say something
    else (unlike titles of cufflinks and earrings, or tricks of cyclists and skaters); if the items conflict more than
    the average conflicting item; and if they are on more than the minimum number of images of a group.
    """
    misplaced, said = _misplaced(pool, rows, calm)
    surprise = -float(np.log10(pool.share[rows]).mean()) - USUAL_SURPRISE
    large = 1 - (FEWEST_IMAGES - 1) / len(np.unique(pool.key[rows]))
    return misplaced * (1 - max(said, 0.0)) * max(surprise, 0.0) * max(large, 0.0)


def _misplaced(pool: Pool, rows: Index, calm: Index) -> tuple[float, float]:
    """Compute how strongly captions like a group's belong to images of another kind, in [0, 1].

    Poison puts captions that have a meaning elsewhere in the data on images of a kind that has its own captions.
    Captions that occur only with these images describe them: a rare topic, or a word unknown to the text encoder. The
    result is 1 if the calm captions on the group's topic, and the calm images of its kind, are at least as numerous as
    the group's items, and the images of those captions have nothing in common with the group's.

    Returns:
        The result, and the similarity of such images' captions to the group's own, in [-1, 1].
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
    said, home = homes  # captions of similar images, and images of similar captions
    return same * float(np.clip(1 - home @ place, 0, 1)), float(said @ topic)


def distinct_groups(strength: Sequence[float], rows: Sequence[Index]) -> list[int]:
    """Return the groups, strongest first, without those that share half of their rows with a stronger group."""
    chosen: list[int] = []
    for number in np.argsort(-np.asarray(strength), kind="stable").tolist():
        if not any(_overlap(rows[number], rows[other]) for other in chosen):
            chosen.append(number)
    return chosen
