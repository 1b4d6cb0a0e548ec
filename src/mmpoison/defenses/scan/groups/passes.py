"""Finds suspicious groups in shards, pass by pass: a data set in memory is one shard.

The memory does not grow with the data set, and the result does not depend on how many processes compute it. A pass is a
function of a shard and of what earlier passes found; parts are merged in the order of the shards:

1. `ReadPass` computes distances and draws a sample (`read_pairs`); `fit.fit_start` fits the spaces and the regressions
   to it.
2. `CountsPass` scores the conflict of every row and counts rows in cells; `items.flag` chooses cells.
3. `GatherPass` reads items of flagged cells; `growth.grow_groups` finds groups among them and the sample.
4. `GrowPass` counts the items near each group, lists its rows and scores every row; `groups_of` joins the counts.

Passes 2 and 4 read all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import ProgressFor, silent
from mmpoison.defenses.scan.groups.fit import (
    Background,
    GroupModel,
    Start,
    fit_model,
    fit_start,
)
from mmpoison.defenses.scan.groups.growth import (
    CONFLICTING,
    COUNTED,
    MOST_GROUPS,
    Grown,
    Likeness,
    Pool,
    Reach,
    count_cell,
    distinct_groups,
    expected_share,
    grow_groups,
    strength_of,
)
from mmpoison.defenses.scan.groups.items import (
    IMAGES,
    Counts,
    Rows,
    cells_of,
    count_in_cells,
    flag,
    image_items,
    item_keys,
    keys,
    pair_items,
    rows_of_cells,
)
from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES, false_alarms_at
from mmpoison.defenses.scan.read.vector_shard import (
    SAMPLE,
    Arrays,
    Index,
    Sample,
    SamplePlan,
    Values,
    Vectors,
    VectorShard,
    distances,
    hashes,
    part_of,
    prefixed,
    sample_part,
)
from mmpoison.statistics import Estimate, true_pair_auroc

Numbers = npt.NDArray[np.float64]


State = Callable[[], Arrays]
"""Gives what an earlier pass found; it is sent to workers."""

READ, COUNTS, GATHER, SCORE = "1-read", "2-counts", "3-gather", "4-score"
"""Names of the passes."""


Earlier = Callable[[str, int, Any], Arrays]
"""`earlier(name, number, shard)` gives the result of an earlier pass over a shard; it is sent to workers."""


class PassRunner:
    """Runs passes over shards in this process; `ShardRunner` has workers do it, with files between the passes.

    Args:
        shards: The shards, in the order of their numbers.

    Attributes:
        shards: Those that can be read, by number.
    """

    def __init__(self, shards: Mapping[int, Any]) -> None:
        self.shards = dict(shards)
        self._found: dict[tuple[str, int], Arrays] = {}

    @property
    def earlier(self) -> Earlier:
        """Reads results of earlier passes."""
        return lambda name, number, shard: self._found[name, number]

    def run(self, name: str, title: str, compute: Callable[[Any, int], Arrays]) -> None:
        """Run a pass over all shards.

        Args:
            name: Name of the pass.
            title: What a user sees.
            compute: Gives the result of a shard and its number, which seeds what is random.
        """
        for number, shard in self.shards.items():
            self._found[name, number] = compute(shard, number)

    def part(self, name: str, number: int, *arrays: str) -> tuple[npt.NDArray[Any], ...]:
        """Read arrays of the result of one shard."""
        return tuple(self._found[name, number][one] for one in arrays)

    def whole_parts(self, name: str, only: str = "") -> Iterator[tuple[int, Arrays]]:
        """Read the results of a pass in the order of the shards: all arrays, or those whose names begin so."""
        for number in sorted(self.shards):
            yield number, self._found[name, number]

    def state(self, name: str, arrays: Arrays) -> State:
        """Store what passes found, for the later ones."""
        return lambda: arrays


def vectors_of(shard: Any, number: int) -> VectorShard:
    """Return the vectors of a shard, and which rows share an image.

    Args:
        shard: One in memory, or of a source of embeddings (`mmpoison.defenses.scan.read.shards.Shard`).
        number: Its place in the source.

    Raises:
        ShardError: If it cannot be read.
    """
    if isinstance(shard, VectorShard):
        return shard
    text, image = shard.vectors()
    images = shard.image_ids()
    image_of = None if images is None else np.unique(images, return_inverse=True)[1]
    return VectorShard(number, text, image, image_of)


@dataclass(frozen=True)
class ReadPass:
    """Computes the distances of the pairs of a shard, and draws its part of the sample.

    Attributes:
        plan: Says what is drawn.
    """

    plan: SamplePlan

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard: `distance`, NaN where it means nothing, and the sample."""
        vectors = vectors_of(shard, number)
        found = np.full(len(vectors), np.nan, dtype=np.float32)
        if vectors.text.shape == vectors.image.shape:
            found = distances(vectors.text, vectors.image)
        return {
            **prefixed("sample", sample_part(vectors, self.plan).to_arrays()),
            "distance": found,
        }


@dataclass(frozen=True)
class ReadPairs:
    """Pairs that `ReadPass` has read: what every method scores.

    Attributes:
        runner: Runs passes over the shards.
        sample: A random sample of the pairs.
        seed: Of everything random.
        progress: Gives a progress callback for a named step.
    """

    runner: PassRunner
    sample: Sample
    seed: int = 0
    progress: ProgressFor = silent

    @cached_property
    def starts(self) -> Mapping[int, int]:
        """Number of the first row of each shard through all shards."""
        numbers = sorted(self.runner.shards)
        ends = np.cumsum([0, *(self.runner.shards[number].rows for number in numbers)])
        return dict(zip(numbers, ends.tolist(), strict=False))

    @property
    def rows(self) -> int:
        """How many pairs there are."""
        return sum(shard.rows for shard in self.runner.shards.values())

    @cached_property
    def units(self) -> tuple[Vectors, Vectors]:
        """Unit vectors of the captions and images of a small sample; empty where distances mean nothing."""
        few = self.sample.first(FEW_UNITS)
        if few.text.shape != few.image.shape:
            return np.empty((0, 1), np.float32), np.empty((0, 1), np.float32)
        sides = [np.asarray(side, dtype=np.float64) for side in (few.text, few.image)]
        text, image = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        return text.astype(np.float32), image.astype(np.float32)

    @cached_property
    def judge(self) -> Estimate | None:
        """How often captions are nearer to their own image than to a random one; None where that cannot be said."""
        return true_pair_auroc(*self.units)

    def distance(self, number: int) -> Values:
        """Return the cosine distance of each pair of a shard, shape `(n,)`."""
        return self.runner.part(READ, number, "distance")[0]

    def vectors(self) -> VectorShard:
        """Read all shards into one in memory, with the captions where they are known."""
        return join_shards([shard for _, shard in sorted(self.runner.shards.items())])


def join_shards(shards: Sequence[Any]) -> VectorShard:
    """Read shards into one in memory, with the captions where they are known."""
    read = [vectors_of(shard, number) for number, shard in enumerate(shards)]
    texts = [shard.captions() for shard in shards]
    owners, images = [], 0
    for one in read:
        owners.append(np.unique(one.owner, return_inverse=True)[1] + images)
        images = int(owners[-1].max(initial=images - 1)) + 1
    return VectorShard(
        0,
        np.concatenate([one.text for one in read]),
        np.concatenate([one.image for one in read]),
        np.concatenate(owners),
        None
        if None in texts
        else np.array([text for some in texts for text in some or ()], dtype=object),
    )


FEW_UNITS = 2048
"""Pairs of the sample that are compared with random pairs."""


def read_pairs(
    runner: PassRunner,
    compute: Callable[[Any, int], Arrays],
    seed: int = 0,
    progress: ProgressFor = silent,
) -> ReadPairs:
    """Read all shards: the first pass.

    Args:
        runner: Runs passes over the shards.
        compute: A `ReadPass`, or what gives its result and more.
        seed: Of everything random.
        progress: Gives a progress callback for a named step.

    Raises:
        InputError: If no shard can be read, or their embeddings have different dimensions.
    """
    runner.run(READ, "reading embeddings", compute)
    parts = runner.whole_parts(READ, only="sample/")
    samples = [Sample.from_arrays(part_of("sample", part)) for _, part in parts]
    return ReadPairs(runner, Sample.joined(samples), seed, progress)


def read_memory(
    shard: VectorShard, seed: int = 0, progress: ProgressFor = silent, *, sample: int = SAMPLE
) -> ReadPairs:
    """Read pairs in memory: one shard.

    Args:
        shard: All pairs.
        seed: Of everything random.
        progress: Gives a progress callback for a named step.
        sample: Pairs in the sample.
    """
    plan = SamplePlan(max(1, len(shard)), sample, seed)
    return read_pairs(PassRunner({shard.number: shard}), ReadPass(plan), seed, progress)


@dataclass(frozen=True)
class CountsPass:
    """Scores the conflict of all rows and counts them in cells.

    Attributes:
        model: The model.
    """

    model: State

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard."""
        model = GroupModel.from_arrays(self.model())
        vectors = vectors_of(shard, number)
        reduced = model.start.reduce(vectors)
        place = cells_of(reduced.image, model.images)
        arrays: Arrays = {}
        for view in model.views:
            items = model.start.items(view, reduced)
            conflict, _ = model.start.fits[view].conflict(items)
            cell = cells_of(items.text, model.captions) * len(model.images) + place[items.at]
            counts = count_in_cells(
                conflict,
                cell,
                model.border[view],
                (len(model.captions), len(model.images)),
                len(vectors) - len(reduced.row),
            )
            of_row = reduced.image_at if view == IMAGES else slice(None)
            rows = Rows.of(len(vectors), reduced.row, conflict[of_row], cell[of_row])
            arrays |= prefixed(f"counts/{view}", counts.to_arrays())
            arrays |= prefixed(f"rows/{view}", rows.to_arrays())
        return arrays


@dataclass(frozen=True)
class GatherPass:
    """Reads the items of flagged cells, a random part of them where they are many.

    Attributes:
        model: The model.
        chances: Which share of the items of each cell is read, for each view.
        earlier: Reads results of earlier passes.
    """

    model: State
    chances: State
    earlier: Earlier

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard."""
        model, chances = GroupModel.from_arrays(self.model()), self.chances()
        found, vectors = self.earlier(COUNTS, number, shard), vectors_of(shard, number)
        arrays: Arrays = {}
        for view in model.views:
            rows = Rows.from_arrays(part_of(f"rows/{view}", found))
            chance = chances[view]
            chosen = rows_of_cells(rows, chance > 0, model.border[view])
            item = vectors.owner[chosen] if view == IMAGES else chosen
            drawn = hashes(model.start.seed, f"gather/{view}", number, item)
            # the upper 53 bits as a share in [0, 1)
            part = (drawn >> np.uint64(11)) * 2.0**-53 < chance.ravel()[rows.cell[chosen]]
            arrays |= prefixed(view, _read(vectors, rows, model, view, chosen[part]))
        return arrays


GATHERED = ("text", "image", "key", "conflict", "cell")


def _read(shard: VectorShard, rows: Rows, model: GroupModel, view: str, chosen: Index) -> Arrays:
    """Read the items of some rows; in the view of images of all rows of their images."""
    needed = chosen
    if shard.image_of is not None:
        # how many captions an image has is known from all of them
        needed = np.flatnonzero(np.isin(shard.image_of, np.unique(shard.image_of[chosen])))
    text, image, key, row = items_near(shard, model, view, needed)
    some = np.arange(len(row)) if view == IMAGES else np.flatnonzero(np.isin(row, chosen))
    # the conflict is not computed again: other blocks of rows may differ in the last digit
    return {
        "text": text[some],
        "image": image[some],
        "key": key[some],
        "conflict": rows.conflict[row[some]],
        "cell": rows.cell[row[some]].astype(np.intp),
    }


def items_near(
    shard: VectorShard, model: GroupModel, view: str, rows: Index | None = None
) -> tuple[Vectors, Vectors, Index, Index]:
    """Return the items of some rows of a shard, all by default, without what the regressions need besides.

    Returns:
        What they say and their images, unit vectors `(n, k)`; their images as numbers; and a row of each, `(n,)`.
    """
    reduced = model.start.reduce(shard, rows)
    crowd = model.start.crowd
    items = image_items(reduced) if view == IMAGES else pair_items(reduced, crowd)
    row = reduced.row
    if view == IMAGES:
        row = row[np.unique(reduced.image_at, return_index=True)[1]]
    return items.text, items.image, item_keys(reduced, items, crowd), row


@dataclass(frozen=True)
class GrowPass:
    """Counts the items of a shard near each group, lists the rows of the groups, and scores every row.

    Attributes:
        model: The model.
        counts: Counts of all shards, for each view.
        reaches: Where the groups of each view are, and what is like them.
        earlier: Reads results of earlier passes.
    """

    model: State
    counts: State
    reaches: State
    earlier: Earlier

    def __call__(self, shard: Any, number: int) -> Arrays:
        """Compute the result of a shard.

        Returns:
            `score`: minus log10 of the share of items that conflict as much in one of the views, and more as far as an
            item is like those of a strong group, NaN for unusable rows, shape `(n,)`. For each view `cell`, the counts
            of each group (`COUNTED`), shape `(g, 10)`; and `member`, rows, groups and images, shape `(3, m)`.
        """
        model, vectors = GroupModel.from_arrays(self.model()), vectors_of(shard, number)
        counts, reaches = self.counts(), self.reaches()
        found = self.earlier(COUNTS, number, shard)
        least, lifted = np.full(len(vectors), np.inf), np.zeros(len(vectors))
        arrays: Arrays = {}
        for view in model.views:
            rows = Rows.from_arrays(part_of(f"rows/{view}", found))
            reach = Reach.from_arrays(part_of(f"reach/{view}", reaches))
            likeness = Likeness.from_arrays(part_of(f"likeness/{view}", reaches))
            share = np.full(len(vectors), np.nan)
            usable = ~np.isnan(rows.conflict)
            share[usable] = Counts.from_arrays(part_of(view, counts)).share_above(
                rows.conflict[usable]
            )
            least = np.minimum(least, share)
            text, image, key, row = items_near(vectors, model, view)
            near_text, near_image = reach.near(text, image)
            odd, one = share[row] <= CONFLICTING, np.ones(len(row))
            like = likeness.of(text, image, key, share[row])
            cells = [
                count_cell(near_text[:, group], near_image[:, group], key, odd, one)
                for group in range(len(reach))
            ]
            arrays[f"cell/{view}"] = np.array(cells).reshape(len(reach), len(COUNTED))
            lift = np.zeros(len(vectors))
            lift[row] = np.max(np.minimum(like, 1) * likeness.strength, axis=1, initial=0.0)
            if view == IMAGES:  # one row has the item of an image, which stands for all of its rows
                image_of = np.unique(vectors.owner, return_inverse=True)[1]
                of_image = np.zeros(image_of.max(initial=0) + 1)
                np.maximum.at(of_image, image_of, lift)
                lift = of_image[image_of]
            lifted = np.maximum(lifted, lift)
            item, group = np.nonzero((near_text & near_image & odd[:, None]) | (like >= 1))
            arrays[f"member/{view}"] = _members(vectors, view, row[item], group, usable)
        arrays["score"] = (lifted - np.log10(np.minimum(least, 1))).astype(np.float32)
        return arrays


def _members(
    shard: VectorShard, view: str, row: Index, group: Index, usable: npt.NDArray[np.bool_]
) -> Index:
    """Return rows, their groups and images, shape `(3, m)`; an image stands for all of its rows."""
    if view == IMAGES and shard.image_of is not None:
        owner = shard.image_of
        parts = [
            np.stack([rows, np.full(len(rows), number)])
            for number in np.unique(group)
            for rows in (np.flatnonzero(np.isin(owner, owner[row[group == number]]) & usable),)
        ]
        row, group = np.concatenate([np.empty((2, 0), np.intp), *parts], axis=1)
    order = np.lexsort((row, group))
    return np.stack([row[order], group[order], shard.owner[row[order]]])


def pool_of(
    background: Background,
    counts: Counts,
    chance: Numbers,
    gathered: Mapping[str, npt.NDArray[Any]],
    cell: Index,
    border: float,
) -> Pool:
    """Put the gathered items of flagged cells in the place of those of the sample.

    Args:
        background: Sampled items.
        counts: Of all shards.
        chance: Which share of the items of each cell was gathered.
        gathered: The gathered items.
        cell: Cell of each sampled item.
        border: Items with more conflict were gathered.
    """
    high = background.conflict > border
    rest = np.flatnonzero(~(high & (chance.ravel()[cell] > 0)))
    order = np.argsort(-gathered["conflict"], kind="stable")
    conflict = np.concatenate([gathered["conflict"][order], background.conflict[rest]])
    first = len(order)
    everything = bool((chance == 1).all())
    return Pool(
        np.concatenate([gathered["text"][order], background.items.text[rest]]),
        np.concatenate([gathered["image"][order], background.items.image[rest]]),
        np.concatenate([gathered["key"][order], background.key[rest]]),
        counts.share_above(conflict),
        np.concatenate(
            [
                1 / chance.ravel()[gathered["cell"][order]],
                np.full(len(rest), max(1.0, len(counts) / max(len(background.conflict), 1))),
            ]
        ),
        np.arange(first),
        np.arange(0 if everything else first, len(conflict)),
    )


@dataclass(frozen=True)
class Group:
    """Captions of one kind on images of another kind.

    Attributes:
        rows: Its pairs: shard numbers, and the rows of each.
        strength: How strong it is (`growth.strength_of`).
        conflicting: How many of its images conflict.
        counted: How many images it has; captions of an image with far too many count as images of their own.
        expected: How many of them would conflict without poison.
        false_alarms: Share of ordinary clean sets with a group as strong, in (0, 1].
        hardest: The same share of clean sets whose mistakes have favourites by construction; None where that was not
            measured.
        images: How many images its pairs are on.
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
    learned: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    @property
    def crowded(self) -> bool:
        """Whether it is on images with far more captions than others (attack I)."""
        return self.images < FEWEST_IMAGES <= self.counted


def find_groups(read: ReadPairs) -> tuple[tuple[Group, ...], Start]:
    """Find suspicious groups, the strongest first, at most ten; `scores_of` reads the scores of all rows.

    Args:
        read: The pairs.

    Raises:
        InputError: If the sample has fewer than 20 pairs.
    """
    runner, sample, progress = read.runner, read.sample, read.progress
    report = progress("fitting the sample")
    report(0, 2)
    start = fit_start(sample, read.seed)
    report(1, 2)
    model, background = fit_model(start, sample)
    report(2, 2)
    model_state = runner.state("model", model.to_arrays())
    runner.run(COUNTS, "counting conflicts", CountsPass(model_state))
    counts: dict[str, Counts] = {}
    # merged as they are read: each is a megabyte
    for _, part in runner.whole_parts(COUNTS, only="counts/"):
        for view in model.views:
            more = Counts.from_arrays(part_of(f"counts/{view}", part))
            counts[view] = counts[view].merge(more) if view in counts else more
    chances = {view: flag(counts[view]) for view in model.views}
    gather = GatherPass(model_state, runner.state("flags", chances), runner.earlier)
    runner.run(GATHER, "reading suspicious cells", gather)
    gathered = list(runner.whole_parts(GATHER))
    comparing = progress("growing groups")
    grown: dict[str, Grown] = {}
    for done, view in enumerate(model.views):
        comparing(done, len(model.views))
        known = background[view]
        images = cells_of(known.items.image, model.images)
        pool = pool_of(
            known,
            counts[view],
            chances[view],
            {
                name: np.concatenate([part[f"{view}/{name}"] for _, part in gathered])
                for name in GATHERED
            },
            cells_of(known.items.text, model.captions) * len(model.images) + images,
            model.border[view],
        )
        grown[view] = grow_groups(pool)
    comparing(len(model.views), len(model.views))
    grow = GrowPass(
        model_state,
        runner.state("counts", joined({v: one.to_arrays() for v, one in counts.items()})),
        runner.state(
            "groups",
            joined({f"reach/{view}": one.reach.to_arrays() for view, one in grown.items()})
            | joined({f"likeness/{view}": one.likeness.to_arrays() for view, one in grown.items()}),
        ),
        runner.earlier,
    )
    runner.run(SCORE, "scoring pairs", grow)
    return groups_of(runner, {view: one.reach for view, one in grown.items()}), start


def groups_of(runner: PassRunner, reaches: Mapping[str, Reach]) -> tuple[Group, ...]:
    """Add the counts of all shards, and join the groups of both views, the strongest first."""
    found: list[tuple[float, Numbers, Index]] = []  # rows as shard, row and image
    for view, reach in reaches.items():
        cells, members = np.zeros((len(reach), len(COUNTED))), []
        for number in sorted(runner.shards):
            cell, member = runner.part(SCORE, number, f"cell/{view}", f"member/{view}")
            cells += cell
            members.append(np.vstack([np.full(member.shape[1], number), member]))
        shard, row, group, owner = np.concatenate(members, axis=1)
        for place, counts in enumerate(cells):
            mine = np.stack([shard, row, owner])[:, group == place]
            found.append((strength_of(counts, float(reach.weight[place])), counts, mine))
    found = [one for one in found if one[0] > 0]
    numbers = [keys(one[2][0], one[2][1]) for one in found]
    chosen = distinct_groups([one[0] for one in found], numbers)
    return tuple(_group(*found[number]) for number in chosen[:MOST_GROUPS])


def _group(strength: float, counts: Numbers, rows: Index) -> Group:
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
    )


def scores_of(score: Values, number: int, groups: Sequence[Group]) -> Values:
    """Return the score of each row of a shard: its own, and the strength of the strongest group that has it.

    Args:
        score: As `GrowPass` gives it, shape `(n,)`.
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
    """Return the arrays of several things, each under its own name."""
    found: Arrays = {}
    for name, arrays in parts.items():
        found |= prefixed(name, arrays)
    return found
