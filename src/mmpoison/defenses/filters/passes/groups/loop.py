"""All passes of suspicious-groups in one loop, in the order in which any runner calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import zip_longest
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison.base.processes import one_blas_thread
from mmpoison.defenses.filters.passes.groups.counts import (
    Counts,
    Flags,
    Gathered,
    Rows,
    counts_part,
    flag,
    gather_part,
)
from mmpoison.defenses.filters.passes.groups.findings import (
    Findings,
    Group,
    find,
    groups_of,
    score_part,
)
from mmpoison.defenses.filters.passes.groups.model import (
    fit_model,
    fit_start,
    merge_sums,
    sums_part,
)
from mmpoison.defenses.filters.passes.groups.shard import SAMPLE, SamplePlan, Shard, sample_part
from mmpoison.errors import InputError

MapParts = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


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


@one_blas_thread()
def scan_shards(
    sizes: Sequence[int],
    shard: Callable[[int], Shard],
    *,
    seed: int = 0,
    sample: int = SAMPLE,
    map_parts: MapParts = map,
) -> ShardScan:
    """Find suspicious groups in shards: two passes read all rows, and three a few.

    How often clean data show a group as strong (`Group.false_alarms`) was measured on sets of up to 15,000 pairs.
    Larger sets are compared at the density of such a set, with a background of 20,000 pairs, but every clean set then
    has a group that one small set in fifty has. So only groups with about twice the score that a few synthetic clean
    sets with independent mistakes showed are taken for more than chance (`score.STRONG`). Clean sets whose mistakes
    have favourites can have such groups. Nothing is known about scraped pairs: the same image posted often, boilerplate
    captions and languages form groups too.

    Args:
        sizes: Rows of each shard.
        shard: Gives a shard by its number; called by each pass, where the part runs.
        seed: Of the sample and the folds.
        sample: Pairs in the sample.
        map_parts: Calls a function with each of some tasks and returns the results in their order, as `map` does. That
            of a pool of threads or processes will do: the result is the same.

    Returns:
        Groups, and scores of all pairs.

    Raises:
        InputError: If there are fewer than 20 usable pairs.
    """
    if not sum(sizes):
        raise InputError("the shards hold no pairs")

    def every(part: Callable[..., Any], *earlier: Any, own: Iterable[Any] = ()) -> Iterable[Any]:
        tasks = zip_longest(range(len(sizes)), own)
        return map_parts(partial(_run, part, shard, earlier), tasks)

    plan = SamplePlan(sum(sizes), sample, seed)
    drawn = merged(every(sample_part, plan))
    start = fit_start(drawn, seed)
    sums = reduce(merge_sums, every(sums_part, start))
    model, background = fit_model(start, sums, drawn)
    del drawn
    counts: dict[str, Counts] = {}
    rows: list[dict[str, Rows]] = []
    for part in every(counts_part, model):
        rows.append({view: part[view][1] for view in model.views})
        for view, (more, _) in part.items():
            counts[view] = counts[view].merge(more) if view in counts else more
    flags = {view: flag(counts[view], len(background[view].items)) for view in model.views}
    parts = list(every(gather_part, model, flags, own=rows))
    gathered: dict[str, Gathered] = {
        view: merged(part[view] for part in parts) for view in model.views
    }
    findings: dict[str, Findings] = {
        view: find(view, model, background[view], counts[view], flags[view], gathered[view])
        for view in model.views
    }
    scores = list(every(score_part, model, counts, findings, own=rows))
    return ShardScan(
        groups_of(
            scores,
            sizes,
            findings,
            large=not all(one.everything for one in flags.values()),
        ),
        tuple(one.score for one in scores),
        counts,
        flags,
        sum(sizes),
        counts[model.views[0]].unusable,
    )


def _run(
    part: Callable[..., Any],
    shard: Callable[[int], Shard],
    earlier: tuple[Any, ...],
    task: tuple[int, Any],
) -> Any:
    """Compute a part; a function of the module, so that it can be sent to another process."""
    number, own = task
    return part(shard(number), *(() if own is None else (own,)), *earlier)


def merged(parts: Iterable[M]) -> M:
    """Merge parts in the order of their shards."""
    return reduce(lambda one, other: one.merge(other), parts)
