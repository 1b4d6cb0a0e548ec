"""The passes of a scan of embeddings, as tasks that are sent to workers: what each computes of one shard.

What earlier passes found is read from a file of the work folder, once a worker: it is too large to send with each task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.untrusted import parse_json
from mmpoison.defenses.filters.passes.distance import DistanceCounts, distances
from mmpoison.defenses.filters.passes.groups.counts import (
    Counts,
    Flags,
    Gathered,
    Rows,
    counts_part,
    gather_part,
)
from mmpoison.defenses.filters.passes.groups.findings import Findings, score_part
from mmpoison.defenses.filters.passes.groups.model import (
    GroupModel,
    Start,
    sums_part,
    sums_to_arrays,
)
from mmpoison.defenses.filters.passes.groups.shard import (
    Sample,
    SamplePlan,
    VectorShard,
    sample_part,
)
from mmpoison.embedded.checks import IdHashes, MatchFact, ShardFacts, check_shard
from mmpoison.embedded.source import Shard
from mmpoison.runs.data_scan.shard_passes import Arrays, load_part, part_file, write_part
from mmpoison.statistics import Estimate

READ, SUMS, COUNTS, GATHER, SCORE = "1-read", "2-sums", "3-counts", "4-gather", "5-score"
"""Names of the passes."""


def vectors_of(shard: Shard, number: int) -> VectorShard:
    """Return the vectors of a shard, and which rows share an image.

    Raises:
        ShardError: If it cannot be read.
    """
    text, image = shard.vectors()
    images = shard.image_ids()
    image_of = None if images is None else np.unique(images, return_inverse=True)[1]
    return VectorShard(number, text, image, image_of)


@dataclass(frozen=True)
class ReadPass:
    """Checks a shard, computes the distances of its pairs, and draws its part of the sample.

    Attributes:
        plan: Says what is drawn.
        ids: Whether ids are checked for being unique.
    """

    plan: SamplePlan
    ids: bool = True

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        facts = check_shard(shard, seed=self.plan.seed, ids=self.ids)
        vectors = vectors_of(shard, number)
        found = distances(vectors.text, vectors.image)
        return {
            **facts_to_arrays(facts),
            **_prefixed("sample", sample_part(vectors, self.plan).to_arrays()),
            **_prefixed("counted", DistanceCounts.of(found).to_arrays()),
            "distance": found,
        }


@dataclass(frozen=True)
class SumsPass:
    """Adds the sums of the regressions.

    Attributes:
        start: File of the first fit.
    """

    start: Path

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        start = Start.from_arrays(_state(self.start))
        return sums_to_arrays(sums_part(vectors_of(shard, number), start))


@dataclass(frozen=True)
class CountsPass:
    """Scores the conflict of all rows and counts them in cells.

    Attributes:
        model: File of the model.
    """

    model: Path

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        found = counts_part(vectors_of(shard, number), GroupModel.from_arrays(_state(self.model)))
        arrays: Arrays = {}
        for view, (counts, rows) in found.items():
            arrays |= _prefixed(f"counts/{view}", counts.to_arrays())
            arrays |= _prefixed(f"rows/{view}", rows.to_arrays())
        return arrays


@dataclass(frozen=True)
class GatherPass:
    """Reads the items of flagged cells.

    Attributes:
        model: File of the model.
        flags: File of the flags.
        work: The work folder.
    """

    model: Path
    flags: Path
    work: Path

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        model = GroupModel.from_arrays(_state(self.model))
        state = _state(self.flags)
        flags = {view: Flags.from_arrays(_part(f"flags/{view}", state)) for view in model.views}
        rows = rows_of(self.work, shard, number, model)
        found = gather_part(vectors_of(shard, number), rows, model, flags)
        arrays: Arrays = {}
        for view, gathered in found.items():
            arrays |= _prefixed(view, gathered.to_arrays())
        return arrays


@dataclass(frozen=True)
class ScorePass:
    """Scores all rows.

    Attributes:
        model: File of the model.
        flags: File of the counts, with the flags.
        findings: File of the findings.
        work: The work folder.
    """

    model: Path
    flags: Path
    findings: Path
    work: Path

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        model = GroupModel.from_arrays(_state(self.model))
        state, found = _state(self.flags), _state(self.findings)
        views = model.views
        scores = score_part(
            vectors_of(shard, number),
            rows_of(self.work, shard, number, model),
            model,
            {view: Counts.from_arrays(_part(f"counts/{view}", state)) for view in views},
            {view: Findings.from_arrays(_part(view, found)) for view in views},
        )
        return scores.to_arrays()


def sample_from(arrays: Mapping[str, npt.NDArray[Any]]) -> Sample:
    """Return the sample of a shard from the result of `ReadPass`."""
    return Sample.from_arrays(_part("sample", arrays))


def counted_from(arrays: Mapping[str, npt.NDArray[Any]]) -> DistanceCounts:
    """Return the counts of distances of a shard from the result of `ReadPass`."""
    return DistanceCounts.from_arrays(_part("counted", arrays))


def counts_from(arrays: Mapping[str, npt.NDArray[Any]], view: str) -> Counts:
    """Return the counts of a view from the result of `CountsPass`."""
    return Counts.from_arrays(_part(f"counts/{view}", arrays))


def gathered_from(arrays: Mapping[str, npt.NDArray[Any]], view: str) -> Gathered:
    """Return the items of a view from the result of `GatherPass`."""
    return Gathered.from_arrays(_part(view, arrays))


def flags_to_arrays(flags: Mapping[str, Flags], counts: Mapping[str, Counts]) -> Arrays:
    """Return the file that `GatherPass` and `ScorePass` read."""
    arrays: Arrays = {}
    for view, one in flags.items():
        arrays |= _prefixed(f"flags/{view}", one.to_arrays())
        arrays |= _prefixed(f"counts/{view}", counts[view].to_arrays())
    return arrays


def findings_to_arrays(findings: Mapping[str, Findings]) -> Arrays:
    """Return the file that `ScorePass` reads."""
    arrays: Arrays = {}
    for view, found in findings.items():
        arrays |= _prefixed(view, found.to_arrays())
    return arrays


def rows_of(work: Path, shard: Shard, number: int, model: GroupModel) -> dict[str, Rows]:
    """Read conflict and cells of the rows of a shard, as `CountsPass` wrote them.

    Raises:
        InputError: If the file is damaged.
    """
    arrays = load_part(part_file(work, COUNTS, number, shard.name))
    return {view: Rows.from_arrays(_part(f"rows/{view}", arrays)) for view in model.views}


def save_state(file: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Write what a pass found, for the tasks of the next one; other contents get another name.

    The name says what is in it, so that a worker never takes the state of an earlier scan for it.
    """
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode() + str(array.dtype).encode() + np.ascontiguousarray(array).data)
    target = file.with_name(f"{file.stem}-{digest.hexdigest()[:16]}.npz")
    if not target.is_file():
        write_part(target, arrays)
    return target


@lru_cache(maxsize=4)
def _state(file: Path) -> Arrays:
    return load_part(file)


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


def _prefixed(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {f"{name}/{key}": np.asarray(value) for key, value in arrays.items()}


def _part(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}
