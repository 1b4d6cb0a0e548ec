"""Scans embeddings that exist for poison: suspicious groups, distances, and what to drop, in flat memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison._version import __version__
from mmpoison.base.option_checks import check_number
from mmpoison.base.phrasing import count_of
from mmpoison.base.processes import one_blas_thread
from mmpoison.defenses.filters.distance import DistanceCounts
from mmpoison.defenses.filters.suspicious_groups.items import Reduced, reduce_sample
from mmpoison.defenses.filters.suspicious_groups.passes import Group, find_groups
from mmpoison.defenses.filters.suspicious_groups.planted import PlantedSize, plant_goals
from mmpoison.defenses.filters.suspicious_groups.shard import SAMPLE, Sample, SamplePlan, Space
from mmpoison.defenses.group_levels import LIKELY, LOOK
from mmpoison.embedded.checks import GUESSING, SCORE_OFF, ShardFacts, notes_on
from mmpoison.embedded.source import EmbeddedSource, ShardError
from mmpoison.errors import InputError
from mmpoison.runs.data_scan.drop import Judged, drop_rule, write_verdicts
from mmpoison.runs.data_scan.goal_words import (
    ALIGNED,
    FEWEST_PAIRS,
    DescribedGroup,
    Describer,
    ScanFinding,
)
from mmpoison.runs.data_scan.group_passes import (
    READ,
    ReadPass,
    counted_from,
    facts_from,
    sample_from,
)
from mmpoison.runs.data_scan.shard_passes import ShardRunner, claim_work, file_states
from mmpoison.runs.data_scan.sources import OpenedSource
from mmpoison.runs.progress import RunProgress
from mmpoison.runs.sweeps.workers import Placement, make_workers
from mmpoison.statistics import Estimate, true_pair_auroc

PLANTED_IN = 10_000
"""Sampled pairs into which goals are planted."""

PASSES = "passes"
"""Folder of the results of passes in the work folder."""

T = TypeVar("T")


@dataclass(frozen=True)
class ScanSettings:
    """What a user chooses.

    Attributes:
        lose: Share of the pairs that may be dropped besides suspected goals, the most suspicious ones; None for none.
        level: How often clean data may raise an alarm, in (0, 1).
        planted: Whether goals are planted to see what would be found.
        seed: Of everything random.
        sample: Pairs in the sample.

    Raises:
        InputError: If a share is out of range: before hours of work, not after.
    """

    lose: float | None = None
    level: float = LIKELY
    planted: bool = True
    seed: int = 0
    sample: int = SAMPLE

    def __post_init__(self) -> None:
        for name, share in (("lose", self.lose), ("false_alarms", self.level)):
            if share is not None:
                check_number(name, share, "a share above 0 and below 1, such as 0.02", 0, 1)


def scan_embedded(
    opened: OpenedSource,
    out: Path,
    work: Path,
    settings: ScanSettings,
    *,
    workers: int,
    threads: int,
    ray: str | None,
    progress: RunProgress,
) -> Judged:
    """Scan a source, and write the results.

    Args:
        opened: The embeddings.
        out: New folder of the results.
        work: Folder of unfinished work: a scan that was killed resumes there; it is removed at the end.
        settings: What a user chooses.
        workers: Processes, each with a shard at a time.
        threads: Threads of each.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        progress: Reports the progress.

    Raises:
        InputError: If no shard can be read, or the work folder is another scan's.
    """
    source, passes = opened.source, work / PASSES
    states = file_states(source)
    placement = Placement(workers, "cpu", threads, ray=ray)
    crew = make_workers(placement, len(source.shards), alone_here=True)
    if claim_work(
        passes,
        source,
        states,
        version=__version__,
        seed=settings.seed,
        sample=settings.sample,
        planted=3,
    ):
        progress.say(f"{work}: resuming a scan that was stopped")
    try:
        runner = ShardRunner(source, states, passes, crew, progress)
        judged = _scan(opened, runner, passes, settings, progress)
    except InputError:
        if not any(passes.rglob("*.npz")):  # nothing that another attempt could use
            shutil.rmtree(passes, ignore_errors=True)
            with suppress(OSError):
                work.rmdir()
        raise
    finally:
        for worker in crew:
            worker.stop()
    judged = replace(judged, notes=[*opened.notes, *judged.notes])
    judged = write_verdicts(judged, runner, out, progress, describe_methods(judged))
    shutil.rmtree(work, ignore_errors=True)
    return judged


@one_blas_thread()
def _scan(
    opened: OpenedSource,
    runner: ShardRunner,
    work: Path,
    settings: ScanSettings,
    progress: RunProgress,
) -> Judged:
    source = opened.source
    facts, counted, sample = read_shards(runner, source, settings)
    judge = _judge(sample)
    aligned = judge is not None and judge.value >= ALIGNED
    if opened.encoder is not None:
        # embedded here, so in one order; a model that is not aligned only looks as if it were not
        facts = replace(facts, matches=(), repeats=0)
    notes = notes_on(facts, [(source.shards[n].name, e) for n, e in runner.failed.items()])
    described: Sequence[DescribedGroup] = ()
    scored = len(sample) >= FEWEST_PAIRS
    planted: Sequence[PlantedSize] | None = None
    used = 0
    if scored:
        groups, start = find_groups(runner, sample, settings.seed, progress.progress)
        described = _describe(runner, sample, groups, start.image, progress)
        if settings.planted:
            some = reduce_sample(sample.first(PLANTED_IN), start.text, start.image, settings.seed)
            used = len(some.text)
            report = progress.progress("planting goals as a test")
            planted = plant_goals(
                some,
                max(LOOK, settings.level),
                _kinds(runner, some),
                seed=settings.seed,
                progress=report,
            )
    if judge is not None and judge.value < GUESSING:
        often = f"captions are nearer to their own image than to a random one in {judge.value:.0%} of comparisons"
        notes.append(
            f"{often}, which is guessing: these embeddings are not of one model, or captions and images are not in the "
            "same order"
            if opened.encoder is None
            else f"{often} by {opened.encoder}: it is not aligned on such pairs, so groups alone are looked for"
        )
    return Judged(
        opened=opened,
        finding=ScanFinding(
            pairs=facts.usable,
            groups=[one.goal for one in described],
            planted=planted,
            sample=used,
            judge=judge,
            level=settings.level,
            out_of_order=_out_of_order(facts),
        ),
        facts=facts,
        counted=counted,
        sample=sample.first(2048),
        described=described,
        rule=drop_rule(
            runner,
            settings.lose,
            counted,
            [one.group for one in described],
            aligned=aligned,
            scored=scored,
        ),
        notes=notes,
        seed=settings.seed,
    )


def read_shards(
    runner: ShardRunner, source: EmbeddedSource, settings: ScanSettings
) -> tuple[ShardFacts, DistanceCounts, Sample]:
    """Check all shards, compute the distances of their pairs, and draw the sample: the first pass.

    Raises:
        InputError: If no shard can be read, or their embeddings have different dimensions.
    """
    plan = SamplePlan(max(1, source.pairs), settings.sample, settings.seed)
    runner.run(READ, "reading embeddings", ReadPass(plan, ids=source.id_kind != "row"))
    read = [
        (facts_from(part), counted_from(part), sample_from(part))
        for _, part in runner.whole_parts(READ, without=("distance",))
    ]
    return (
        reduce(ShardFacts.merge, (one for one, _, _ in read)),
        reduce(DistanceCounts.merge, (one for _, one, _ in read)),
        _in_pairs([one for _, _, one in read], Sample.merge),
    )


def _describe(
    runner: ShardRunner,
    sample: Sample,
    groups: Sequence[Group],
    space: Space,
    progress: RunProgress,
) -> list[DescribedGroup]:
    numbers = sorted(runner.shards)
    sizes = [runner.shards[number].rows for number in numbers]
    starts = dict(zip(numbers, np.concatenate([[0], np.cumsum(sizes)[:-1]]).tolist(), strict=True))
    if not groups:
        return []
    report = progress.progress("describing groups")
    report(0, len(groups))
    describe = Describer(runner.shards, sample, space, starts)
    described = []
    for done, group in enumerate(groups, 1):
        described.append(describe(group))
        report(done, len(groups))
    return described


KINDS = ("label", "category", "class")
"""Own columns that say of what kind an image is."""


def _kinds(runner: ShardRunner, pairs: Reduced) -> npt.NDArray[np.intp] | None:
    """Return the kind of each image by an own column of the data, -1 for none; None where there is no such column."""
    row = pairs.row[np.unique(pairs.image_at, return_index=True)[1]]
    found = np.full(len(row), "", dtype=object)
    for number in np.unique(pairs.shard).tolist():
        shard = runner.shards[number]
        try:
            name = next((name for name in KINDS if name in shard.schema().names), None)
            if name is None:
                return None
            mine = np.flatnonzero(pairs.shard == number)
            values = shard.table(row[mine]).column(name).to_pylist()
        except ShardError:
            continue
        found[mine] = ["" if value is None else str(value) for value in values]
    _, kind = np.unique(found.astype(str), return_inverse=True)
    kind = np.where(found == "", -1, kind).astype(np.intp)
    known = np.bincount(kind[kind >= 0])
    # a column of other values, such as texts, says nothing
    return kind if 2 <= len(known) <= len(kind) / FEWEST_OF_A_KIND else None


FEWEST_OF_A_KIND = 5
"""Images of a kind on average, at least, for a column to say kinds."""


def _judge(sample: Sample) -> Estimate | None:
    """Return how often captions are nearer to their own image than to a random one."""
    few = sample.first(1024)
    if not len(few) or few.text.shape[1] != few.image.shape[1]:
        return None
    text, image = (np.asarray(side, dtype=np.float64) for side in (few.text, few.image))
    return true_pair_auroc(
        text / np.linalg.norm(text, axis=1, keepdims=True),
        image / np.linalg.norm(image, axis=1, keepdims=True),
    )


def _out_of_order(facts: ShardFacts) -> bool:
    """Return whether files do not belong together, by what cannot be anything else."""
    wrong = sum(match.shuffled for match in facts.matches)
    known = sum(match.auroc is not None for match in facts.matches)
    stored = facts.score_mean is not None and facts.score_mean > SCORE_OFF
    return 0 < wrong < known or facts.captions_out_of_order or (stored and wrong > 0)


def _in_pairs(parts: list[T], merge: Callable[[T, T], T]) -> T:
    """Merge neighbours again and again: large parts are copied a few times, and not once a shard."""
    while len(parts) > 1:
        parts = [
            merge(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i]
            for i in range(0, len(parts), 2)
        ]
    return parts[0]


def describe_methods(judged: Judged) -> list[str]:
    """Say what was computed, a line each."""
    encoder, shards = judged.opened.encoder, len(judged.opened.source.shards)
    embedded = f"embedded with {encoder}" if encoder else "embeddings as they are stored"
    return [
        f"{count_of(judged.facts.rows, 'pair')} in {count_of(shards, 'shard')}, {embedded}",
        "suspicious-groups in passes over the shards (docs: Scan my data); a group is a suspected goal if at most "
        f"{judged.finding.level:.0%} of clean sets show one as strong, measured on sets of up to 15,000 pairs; from "
        "100,000 on it must also be about twice as strong as any group of a few synthetic clean corpora of that size "
        "(between 20,000 and 100,000 a part of that)",
    ]
