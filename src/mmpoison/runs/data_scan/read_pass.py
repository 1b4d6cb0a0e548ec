"""The first pass of a scan of embeddings: checks a shard, and draws its part of the sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.untrusted import parse_json
from mmpoison.defenses.filters.suspicious_groups.passes import ReadPass
from mmpoison.defenses.filters.suspicious_groups.shard import Arrays, SamplePlan
from mmpoison.embedded.checks import IdHashes, MatchFact, ShardFacts, check_shard
from mmpoison.embedded.source import Shard
from mmpoison.statistics import Estimate


@dataclass(frozen=True)
class CheckedReadPass:
    """Reads a shard as `ReadPass`, and checks it.

    Attributes:
        plan: Says which pairs are sampled.
        ids: Whether ids are checked for being unique.
    """

    plan: SamplePlan
    ids: bool = True

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        facts = check_shard(shard, seed=self.plan.seed, ids=self.ids)
        return {**facts_to_arrays(facts), **ReadPass(self.plan)(shard, number)}


# -- facts of a shard as arrays ---------------------------------------------------------------------------------------

_PLAIN = tuple(each.name for each in fields(ShardFacts) if each.name not in ("ids", "matches"))


def facts_to_arrays(facts: ShardFacts) -> Arrays:
    """Return arrays for `numpy.savez`."""
    plain = {name: getattr(facts, name) for name in _PLAIN}
    matches = [asdict(match) for match in facts.matches]
    text = json.dumps({**plain, "matches": matches, "limit": str(facts.ids.limit)})
    return {
        "facts": np.frombuffer(text.encode(), dtype=np.uint8),
        "id_values": facts.ids.values,
        "id_counts": facts.ids.counts,
    }


def facts_from(arrays: Mapping[str, npt.NDArray[Any]]) -> ShardFacts:
    """Read what `facts_to_arrays` gave."""
    value = parse_json(arrays["facts"].tobytes(), "facts of a shard")
    matches = tuple(
        MatchFact(
            match["shard"],
            None if match["auroc"] is None else Estimate(**match["auroc"]),
            match["own"],
            match["random"],
        )
        for match in value["matches"]
    )
    ids = IdHashes(arrays["id_values"], arrays["id_counts"], int(value["limit"]))
    return ShardFacts(**{name: value[name] for name in _PLAIN}, ids=ids, matches=matches)
