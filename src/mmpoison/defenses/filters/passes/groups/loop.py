"""All passes of suspicious-groups in one loop, in the order in which any runner calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.passes.groups.counts import Counts, Rows, counts_part
from mmpoison.defenses.filters.passes.groups.findings import Findings, find
from mmpoison.defenses.filters.passes.groups.flags import Flags, Gathered, flag, gather_part
from mmpoison.defenses.filters.passes.groups.model import (
    fit_model,
    fit_start,
    merge_sums,
    sums_part,
)
from mmpoison.defenses.filters.passes.groups.sample import SAMPLE, SamplePlan, sample_part
from mmpoison.defenses.filters.passes.groups.score import Group, groups_of, score_part
from mmpoison.defenses.filters.passes.groups.shard import Shard
from mmpoison.errors import InputError

MapShards = Callable[[Callable[[int], Any]], Iterable[Any]]


class Mergeable(Protocol):
    """A part that is merged with that of the next shard."""

    def merge(self, other: Self, /) -> Self:
        """Return the part of both."""
        ...


M = TypeVar("M", bound=Mergeable)


@dataclass(frozen=True)
class ShardScan:
    """What the scan of all shards found.

    Attributes:
        groups: The strongest first.
        scores: Of each shard, float32, NaN for unusable rows.
        counts: Of each view.
        flags: Of each view.
        pairs: In all shards.
        unusable: Rows with a vector that is zero or not finite.
    """

    groups: tuple[Group, ...]
    scores: tuple[npt.NDArray[np.float32], ...]
    counts: dict[str, Counts]
    flags: dict[str, Flags]
    pairs: int
    unusable: int


def scan_shards(
    sizes: Sequence[int],
    shard: Callable[[int], Shard],
    *,
    seed: int = 0,
    sample: int = SAMPLE,
    map_shards: MapShards | None = None,
) -> ShardScan:
    """Find suspicious groups in shards, each read three times.

    How often clean data show a group as strong (`Group.false_alarms`) was measured on sets of up to 15,000 pairs.
    Larger sets are compared at the density of such a set, with a background of 20,000 pairs. That the share holds for
    them is an assumption; docs/decisions/0053-passes-over-shards.md says on which synthetic sets it was checked. It is
    not known for scraped pairs: the same image posted often, boilerplate captions and languages form groups too.

    Args:
        sizes: Rows of each shard.
        shard: Gives a shard by its number; called by each pass.
        seed: Of the sample and the folds.
        sample: Pairs in the sample.
        map_shards: Calls a function with the number of each shard and returns the results in this order, by default one
            after the other. The result is the same, whatever runs the parts.

    Returns:
        Groups, and scores of all pairs.

    Raises:
        InputError: If there are fewer than 20 usable pairs.
    """
    if not sum(sizes):
        raise InputError("the shards hold no pairs")
    every: MapShards = map_shards or (lambda part: map(part, range(len(sizes))))
    plan = SamplePlan(sum(sizes), sample, seed)
    drawn = merged(every(lambda i: sample_part(shard(i), plan)))
    start = fit_start(drawn, seed)
    sums = reduce(merge_sums, every(lambda i: sums_part(shard(i), start)))
    model, background = fit_model(start, sums, drawn)
    del drawn
    counts: dict[str, Counts] = {}
    rows: list[dict[str, Rows]] = []
    for part in every(lambda i: counts_part(shard(i), model)):
        rows.append({view: part[view][1] for view in model.views})
        for view, (more, _) in part.items():
            counts[view] = counts[view].merge(more) if view in counts else more
    flags = {view: flag(counts[view], len(background[view].items)) for view in model.views}
    parts = list(every(lambda i: gather_part(shard(i), rows[i], model, flags)))
    gathered: dict[str, Gathered] = {
        view: merged(part[view] for part in parts) for view in model.views
    }
    findings: dict[str, Findings] = {
        view: find(view, model, background[view], counts[view], flags[view], gathered[view])
        for view in model.views
    }
    scores = list(every(lambda i: score_part(shard(i), rows[i], model, counts, findings)))
    return ShardScan(
        groups_of(scores, sizes, findings),
        tuple(one.score for one in scores),
        counts,
        flags,
        sum(sizes),
        counts[model.views[0]].unusable,
    )


def merged(parts: Iterable[M]) -> M:
    """Merge parts in the order of their shards."""
    return reduce(lambda one, other: one.merge(other), parts)
