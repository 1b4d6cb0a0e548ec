"""Finds suspicious groups in shards, pass by pass. A data set in memory is one shard.

Memory does not grow with the data set, and the result does not depend on the number of processes. A pass is a function
of a shard and of earlier passes' results; parts are merged in shard order:

1. `ReadPass` computes distances and draws a sample (`read_pairs`); `fit.fit_model` fits the spaces and the regressions
   to it.
2. `CountsPass` scores the conflict of every row and counts rows in cells; `items.flag` chooses cells.
3. `GatherPass` reads items of flagged cells; `growth.grow_groups` finds groups among them and the sample.
4. `GrowPass` lists the rows like each group, counts all rows around its cell, and scores every row; `groups_of` joins
   them. The strength of a group is computed from these counts, so it does not depend on the sample.

Passes 2 and 4 read all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.scan.groups.fit import (
    GroupModel,
    fit_model,
)
from mmpoison.defenses.scan.groups.growth import (
    CONFLICTING,
    COUNTED,
    LEAST_STRENGTH,
    MOST_GROUPS,
    Cells,
    Grown,
    Likeness,
    Pool,
    distinct_groups,
    expected_share,
    grow_groups,
)
from mmpoison.defenses.scan.groups.items import (
    IMAGES,
    Counts,
    Rows,
    Scored,
    cells_of,
    count_in_cells,
    flag,
    keys,
    view_items,
)
from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES, false_alarms_at
from mmpoison.defenses.scan.read.pass_runner import (
    Earlier,
    PassRunner,
    ReadPairs,
    State,
    vectors_of,
)
from mmpoison.defenses.scan.read.vector_shard import (
    Arrays,
    Index,
    Values,
    Vectors,
    VectorShard,
    hashes,
    part_of,
    prefixed,
)

Numbers = npt.NDArray[np.float64]

COUNTS, GATHER, SCORE = "2-counts", "3-gather", "4-score"
"""Names of the passes that search for groups."""


@dataclass(frozen=True)
class CountsPass:
    """Scores the conflict of all rows, and counts the rows in cells.

    Attributes:
        model: The model.
    """

    model: State

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard."""
        model = GroupModel.from_arrays(self.model())
        vectors = vectors_of(shard, number)
        reduced = model.reduce(vectors)
        kind = cells_of(reduced.image, model.kinds)
        arrays: Arrays = {}
        for view in model.fits:
            items = view_items(view, reduced, model.crowd)
            conflict = model.fits[view].conflict(items)
            cell = model.cells(items, kind)
            counts = count_in_cells(
                conflict,
                cell,
                model.border[view],
                (len(model.topics), len(model.kinds)),
                len(vectors) - len(reduced.row),
            )
            of_row = reduced.image_at if view == IMAGES else slice(None)
            rows = Rows.of(len(vectors), reduced.row, conflict[of_row], cell[of_row])
            arrays |= prefixed(f"counts/{view}", counts.to_arrays())
            arrays |= prefixed(f"rows/{view}", rows.to_arrays())
        return arrays


@dataclass(frozen=True)
class GatherPass:
    """Reads the items of flagged cells, or a random part of them if there are many.

    Attributes:
        model: The model.
        chances: For each view, the share of each cell's items to read.
        earlier: Reads the results of earlier passes.
    """

    model: State
    chances: State
    earlier: Earlier

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard."""
        model, chances = GroupModel.from_arrays(self.model()), self.chances()
        found, vectors = self.earlier(COUNTS, number, shard), vectors_of(shard, number)
        arrays: Arrays = {}
        for view in model.fits:
            rows = Rows.from_arrays(part_of(f"rows/{view}", found))
            chance = chances[view].ravel()[rows.cell]
            chosen = np.flatnonzero((rows.conflict > model.border[view]) & (chance > 0))
            item = vectors.owner[chosen] if view == IMAGES else chosen
            drawn = hashes(model.seed, f"gather/{view}", number, item)
            # the upper 53 bits as a number in [0, 1)
            part = (drawn >> np.uint64(11)) * 2.0**-53 < chance[chosen]
            arrays |= prefixed(view, _read(vectors, rows, model, view, chosen[part]).to_arrays())
        return arrays


def _read(shard: VectorShard, rows: Rows, model: GroupModel, view: str, chosen: Index) -> Scored:
    """Read the items of some rows; in the view of images, include all rows of their images."""
    needed = chosen
    if shard.image_of is not None:
        # counting an image's captions requires all of its rows
        needed = np.flatnonzero(np.isin(shard.image_of, np.unique(shard.image_of[chosen])))
    items = view_items(view, model.reduce(shard, needed), model.crowd)
    # reuse the stored conflict: with other blocks of rows the last digit may differ
    conflict, cell = rows.conflict[items.row], rows.cell[items.row].astype(np.intp)
    found = Scored(items.text, items.image, items.context, items.key, conflict, cell)
    return (
        found
        if view == IMAGES
        else Scored.joined([found], [np.flatnonzero(np.isin(items.row, chosen))])
    )


@dataclass(frozen=True)
class GrowPass:
    """Lists the rows of a shard that are like each group, counts the rows around it, and scores every row.

    Attributes:
        model: The model.
        counts: Counts of all shards, for each view.
        grown: The likeness and the cells of the groups of each view.
        earlier: Reads the results of earlier passes.
    """

    model: State
    counts: State
    grown: State
    earlier: Earlier

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard.

        Returns:
            `score`, shape `(n,)`: minus log10 of the share of items with at least as much conflict in one of the views,
            NaN for unusable rows. For each view: `member`, rows, groups and images, shape `(3, m)`; `like`, how much
            each of these resembles the group, shape `(m,)`; `around`, counts of each cell (`COUNTED`), shape `(g, 10)`.
        """
        model, vectors = GroupModel.from_arrays(self.model()), vectors_of(shard, number)
        counts, grown = self.counts(), self.grown()
        found, reduced = self.earlier(COUNTS, number, shard), model.reduce(vectors)
        row, owner = reduced.row, vectors.owner
        shares, arrays = [], {}
        for view in model.fits:
            conflict = Rows.from_arrays(part_of(f"rows/{view}", found)).conflict
            items = view_items(view, reduced, model.crowd)
            share = Counts.from_arrays(part_of(view, counts)).share_above(conflict[items.row])
            sides = items.text, items.image, items.key, share
            like = Likeness.from_arrays(part_of(f"{view}/likeness", grown)).of(*sides)
            by_context = Likeness.from_arrays(part_of(f"{view}/by_context", grown))
            # conflict does not count here
            some = np.where(items.context.any(axis=1), CONFLICTING, 1.0)
            like = np.maximum(like, by_context.of(items.text, items.context, items.key, some))
            cells = Cells.from_arrays(part_of(f"{view}/cells", grown))
            of_row = reduced.image_at if view == IMAGES else slice(None)
            shares.append(share[of_row])
            group, at = np.nonzero(like[of_row].T)
            arrays[f"member/{view}"] = np.stack([row[at], group, owner[row[at]]])
            arrays[f"like/{view}"] = like[of_row][at, group]
            arrays[f"around/{view}"] = cells.count(*sides)
        score = np.full(len(vectors), np.nan, dtype=np.float32)
        score[row] = -np.log10(np.minimum(np.min(shares, axis=0), 1))
        return {**arrays, "score": score}


def pool_of(
    sampled: Scored, gathered: Sequence[Scored], counts: Counts, chance: Numbers, border: float
) -> Pool:
    """Replace the sample's items in flagged cells with the gathered items.

    Args:
        sampled: Sampled items.
        gathered: The gathered items of each shard.
        counts: Counts of all shards.
        chance: Share of each cell's items that was gathered.
        border: Items with more conflict were gathered.
    """
    every = Scored.joined(gathered, [slice(None)] * len(gathered))
    order = np.argsort(-every.conflict, kind="stable")
    rest = ~((sampled.conflict > border) & (chance.ravel()[sampled.cell] > 0))
    every = Scored.joined([every, sampled], [order, np.flatnonzero(rest)])
    weight = np.full(len(every.key), max(1.0, len(counts) / max(len(sampled.key), 1)))
    first = len(order)
    weight[:first] = 1 / chance.ravel()[every.cell[:first]]
    share = counts.share_above(every.conflict)
    start = 0 if (chance == 1).all() else first
    sides = every.text, every.image, every.key
    seeds, items = np.arange(first), np.arange(start, len(weight))
    return Pool(*sides, share, weight, seeds, items, every.context)


@dataclass(frozen=True)
class Group:
    """Captions of one kind on images of another kind.

    Attributes:
        rows: Its pairs: shard numbers, and the rows of each.
        strength: Its strength (`growth.strength_of`).
        conflicting: Number of its images that conflict.
        counted: Number of its images. If an image has far too many captions, each caption counts as an image.
        expected: Expected number of conflicting images without poison.
        false_alarms: Share of ordinary clean sets with a group this strong, in (0, 1].
        hardest: The same share for clean sets with systematic mislabelling; None if not measured.
        images: Number of images of its pairs.
        image: Centre of its images in the space of comparison, shape `(k,)`.
        learned: Whether its images conflict because a model has learned them (`mmpoison.defenses.scan.cut.trace`).
    """

    rows: Mapping[int, Index]
    strength: float
    conflicting: int
    counted: int
    expected: float
    false_alarms: float
    hardest: float | None
    images: int
    image: Vectors
    learned: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    @property
    def crowded(self) -> bool:
        """Whether it is on images with far more captions than others (attack I)."""
        return self.images < FEWEST_IMAGES <= self.counted


@dataclass(frozen=True)
class Found:
    """Suspicious groups, and the scores of all rows.

    Attributes:
        groups: The groups, strongest first.
        model: The fitted model.
        runner: Has run the passes.
        cells: Strength of each view's cells, shapes `(g,)`.
    """

    groups: tuple[Group, ...]
    model: GroupModel
    runner: PassRunner
    cells: Mapping[str, Numbers]

    def scores(self, number: int) -> Values:
        """Return the score of each row of a shard, shape `(n,)`.

        The conflict of a row counts, increased for rows that resemble a strong group, and more for those in one.
        """
        (score,) = self.runner.part(SCORE, number, "score")
        lift = np.zeros(len(score))
        for view, strength in self.cells.items():
            member, like = self.runner.part(SCORE, number, f"member/{view}", f"like/{view}")
            np.maximum.at(lift, member[0], np.minimum(like, 1) * strength[member[1]])
        return scores_of((score + lift).astype(np.float32), number, self.groups)


def find_groups(read: ReadPairs) -> Found:
    """Find suspicious groups, strongest first, at most ten.

    Args:
        read: The pairs.

    Raises:
        InputError: If the sample has fewer than 20 pairs.
    """
    runner, sample, progress = read.runner, read.sample, read.progress
    report = progress("fitting the sample")
    report(0, 1)
    model, background = fit_model(sample, read.seed)
    report(1, 1)
    model_state = runner.state("model", model.to_arrays())
    runner.run(COUNTS, "counting conflicts", CountsPass(model_state))
    counts: dict[str, Counts] = {}
    # merge while reading, because each is a megabyte
    for _, part in runner.whole_parts(COUNTS, only="counts/"):
        for view in model.fits:
            more = Counts.from_arrays(part_of(f"counts/{view}", part))
            counts[view] = counts[view].merge(more) if view in counts else more
    chances = {view: flag(counts[view]) for view in model.fits}
    gather = GatherPass(model_state, runner.state("flags", chances), runner.earlier)
    runner.run(GATHER, "reading suspicious cells", gather)
    gathered = list(runner.whole_parts(GATHER))
    comparing = progress("growing groups")
    grown: dict[str, Grown] = {}
    for done, view in enumerate(model.fits):
        comparing(done, len(model.fits))
        items = [Scored.from_arrays(part_of(view, part)) for _, part in gathered]
        chance, border = chances[view], model.border[view]
        pool = pool_of(background[view], items, counts[view], chance, border)
        grown[view] = grow_groups(pool)
    comparing(len(model.fits), len(model.fits))
    grow = GrowPass(
        model_state,
        runner.state("counts", joined({v: one.to_arrays() for v, one in counts.items()})),
        runner.state(
            "groups",
            joined(
                {
                    f"{view}/{name}": part.to_arrays()
                    for view, one in grown.items()
                    for name, part in (
                        ("likeness", one.likeness),
                        ("by_context", one.by_context),
                        ("cells", one.cells),
                    )
                }
            ),
        ),
        runner.earlier,
    )
    runner.run(SCORE, "scoring pairs", grow)
    groups, cells = _groups_of(runner, grown)
    return Found(groups, model, runner, cells)


def _groups_of(
    runner: PassRunner, grown: Mapping[str, Grown]
) -> tuple[tuple[Group, ...], dict[str, Numbers]]:
    """Join the groups of both views with the rows of all shards, strongest first; and the strength of all cells."""
    found, cells = [], {}  # rows as shard, row and image
    for view, groups in grown.items():
        members, counts = [], np.zeros((len(groups.strength), len(COUNTED)))
        for number in sorted(runner.shards):
            names = (f"{name}/{view}" for name in ("member", "like", "around"))
            member, like, around = runner.part(SCORE, number, *names)
            member, counts = member[:, like >= 1], counts + around
            members.append(np.vstack([np.full(member.shape[1], number), member]))
        shard, row, group, owner = np.concatenate(members, axis=1)
        cells[view], strengths = groups.cells.strength(counts)
        for place, strength in enumerate(strengths.tolist()):
            mine = np.stack([shard, row, owner])[:, group == place]
            if mine.size and strength >= LEAST_STRENGTH:
                found.append((strength, counts[place], mine, groups.places[place]))
    numbers = [keys(one[2][0], one[2][1]) for one in found]
    chosen = distinct_groups([one[0] for one in found], numbers)
    return tuple(_group(*found[number]) for number in chosen[:MOST_GROUPS]), cells


def _group(strength: float, counts: Numbers, rows: Index, image: Vectors) -> Group:
    shard, row, owner = rows
    named = dict(zip(COUNTED, counts.tolist(), strict=True))
    return Group(
        {number: row[shard == number] for number in np.unique(shard).tolist()},
        strength,
        round(named["conflicting"]),
        round(named["images"]),
        expected_share(counts) * named["images"],
        false_alarms_at(strength),
        false_alarms_at(strength, "hardest"),
        len(np.unique(keys(shard, owner))),
        image,
    )


def scores_of(score: Values, number: int, groups: Sequence[Group]) -> Values:
    """Return the score of each row of a shard: its own plus the strength of its strongest group.

    Args:
        score: Scores from `GrowPass`, shape `(n,)`.
        number: Of the shard.
        groups: All groups.
    """
    strongest = np.zeros(len(score), dtype=np.float32)
    for group in groups:
        rows = group.rows.get(number)
        if rows is not None:
            strongest[rows] = np.maximum(strongest[rows], np.float32(group.strength))
    return np.asarray(score + strongest)


def joined(parts: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    """Return the arrays of several objects, each under its own name."""
    found: Arrays = {}
    for name, arrays in parts.items():
        found |= prefixed(name, arrays)
    return found
