"""Scans embeddings for poison with any method, in passes over shards, and writes the results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mmpoison._version import __version__
from mmpoison.base.processes import one_blas_thread
from mmpoison.base.progress import RunProgress
from mmpoison.base.text import count_of
from mmpoison.base.untrusted import parse_json
from mmpoison.base.workers import Placement, make_workers
from mmpoison.defenses.scan.cut.judging import Given, NothingLeft, false_alarms, judge_pairs
from mmpoison.defenses.scan.cut.labels import labelled_places
from mmpoison.defenses.scan.cut.score_filter import ScoreFilter, SuspiciousGroups
from mmpoison.defenses.scan.cut.trace import Trace
from mmpoison.defenses.scan.groups.items import Reduced, reduce_sample
from mmpoison.defenses.scan.groups.levels import LIKELY, LOOK
from mmpoison.defenses.scan.groups.planted import PlantedSize, plant_goals
from mmpoison.defenses.scan.read.checks import GUESSING, SCORE_OFF, ShardFacts, facts_of, notes_on
from mmpoison.defenses.scan.read.files import ShardError
from mmpoison.defenses.scan.read.pass_runner import (
    READ,
    ReadPairs,
    ReadPass,
    join_shards,
    read_memory,
    read_pairs,
    vectors_of,
)
from mmpoison.defenses.scan.read.shards import EmbeddedSource, Shard
from mmpoison.defenses.scan.read.tables import KINDS
from mmpoison.defenses.scan.read.vector_shard import (
    SAMPLE,
    Arrays,
    SamplePlan,
)
from mmpoison.defenses.scan.shard_runner import ShardRunner, claim_work, file_states
from mmpoison.defenses.scan.sources import OpenedSource
from mmpoison.defenses.scan.write.files import Judged, KeptFolder, write_scan
from mmpoison.defenses.scan.write.verdict import ScanFinding
from mmpoison.errors import InputError, ResultError

PLANTED_IN = 10_000
"""Number of sampled pairs into which goals are planted."""

PASSES = "passes"
"""Folder in the work folder for the results of passes."""

T = TypeVar("T")


@dataclass(frozen=True)
class ScanSettings:
    """The user's choices for a scan.

    Attributes:
        method: The method, which scores the pairs and defines the cut.
        planted: Whether to plant test goals, for methods that find groups.
        force: Use the model even if it cannot distinguish true from shuffled pairs.
        seed: Seed for all random choices.
        sample: Pairs in the sample.
    """

    method: ScoreFilter = field(default_factory=SuspiciousGroups)
    planted: bool = True
    force: bool = False
    seed: int = 0
    sample: int = SAMPLE


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
    kept: KeptFolder | None = None,
) -> Judged:
    """Scan a source, and write the results.

    Args:
        opened: The embeddings.
        out: New folder of the results.
        work: Folder of unfinished work, from which a killed scan resumes; removed at the end.
        settings: The user's choices for a scan.
        workers: Number of processes, each with one shard at a time.
        threads: Threads per process.
        ray: Address of a Ray cluster to run on, or `local`; by default processes on this machine.
        progress: Reports the progress.
        kept: Where to write the kept pairs as well.

    Raises:
        InputError: If no shard is readable, the method cannot judge these pairs, every pair would be dropped, or the
            work folder belongs to another scan.
        ResultError: If the method compares captions with images, and the model cannot distinguish true from shuffled
            pairs.
    """
    source, passes = opened.source, work / PASSES
    if kept is not None and opened.pieces is None:
        raise InputError(
            f"{source.root}: has embeddings but no images, so --kept has nothing to write: {out} lists the remaining "
            "pairs"
        )
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
        passes=5,
    ):
        progress.say(f"{work}: resuming a scan that was stopped")
    try:
        runner = ShardRunner(source, states, passes, crew, progress)
        judged = _scan(opened, runner, settings, progress)
    except (NothingLeft, ResultError):
        shutil.rmtree(work, ignore_errors=True)  # another cut or model starts over
        raise
    except InputError:
        if not any(passes.rglob("*.npz")):  # nothing a retry could use
            shutil.rmtree(passes, ignore_errors=True)
            with suppress(OSError):
                work.rmdir()
        raise
    finally:
        for worker in crew:
            worker.stop()
    judged = replace(judged, notes=[*opened.notes, *judged.notes])
    judged = write_scan(judged, runner, out, progress, describe_methods(judged), kept)
    shutil.rmtree(work, ignore_errors=True)
    return judged


@one_blas_thread()
def _scan(
    opened: OpenedSource, runner: ShardRunner, settings: ScanSettings, progress: RunProgress
) -> Judged:
    source, method = opened.source, settings.method
    facts, read = read_shards(runner, source, settings, progress)
    if opened.encoder is not None:
        # embedded by mmpoison, so in the right order; an unaligned model only makes it look wrong
        facts = replace(facts, shuffled=(), repeats=0)
    notes = notes_on(facts, [(source.shards[n].name, e) for n, e in runner.failed.items()])
    judge = None if opened.encoder is not None else read.judge
    if judge is not None and judge.value < GUESSING:
        notes.append(
            f"captions are nearer to their own image than to a random one in {judge.value:.0%} of comparisons, which "
            "is guessing: these embeddings are not of one model, or captions and images are not in the same order"
        )
    found = judge_pairs(
        read,
        method,
        opened.encoder or "these embeddings",
        _given(opened, runner, settings),
    )
    level, model = false_alarms(method) or LIKELY, found.scores.model
    described = found.described()
    planted: Sequence[PlantedSize] | None = None
    used = 0
    if model is not None and settings.planted:
        some = reduce_sample(read.sample.first(PLANTED_IN), model.text, model.image, settings.seed)
        used = len(some.text)
        report = progress.progress("planting test goals")
        planted = plant_goals(
            some, max(LOOK, level), _kinds(runner, some), seed=settings.seed, progress=report
        )
    finding = ScanFinding(
        pairs=facts.usable,
        groups=described,
        planted=planted,
        sample=used,
        level=level,
        out_of_order=_out_of_order(facts),
        traced=isinstance(method, Trace),
    )
    return Judged(opened, method, found, finding, facts, notes, settings.seed)


def _given(opened: OpenedSource, runner: ShardRunner, settings: ScanSettings) -> Given:
    """Return the cut's further inputs: scores of trusted pairs, and human verdicts."""
    given = Given(force=settings.force)
    if opened.trusted is not None:
        trusted = join_shards(opened.trusted.source.shards)
        scores = settings.method.score(read_memory(trusted, settings.seed)).of(0)
        usable = ~np.isnan(scores)
        given = replace(
            given,
            trusted=scores[usable],
            trusted_images=trusted.owner[usable].astype(np.int32),
        )
    if (file := settings.method.cut.labels) is not None:
        given = replace(given, labels=labelled_places(_names(runner), file))
    return given


def _names(runner: ShardRunner) -> Iterator[Sequence[str]]:
    """Yield the names of the pairs of each shard."""
    for _, shard in sorted(runner.shards.items()):
        yield shard.ids()


@dataclass(frozen=True)
class CheckedReadPass:
    """A `ReadPass` that also checks the shard.

    Attributes:
        plan: The plan of the sample.
    """

    plan: SamplePlan

    def __call__(self, shard: Shard, number: int) -> Arrays:
        """Compute the result of a shard."""
        vectors = vectors_of(shard, number)
        found = ReadPass(self.plan)(vectors, number)
        facts = facts_of(shard, vectors.text, vectors.image, found["distance"])
        text = json.dumps(asdict(facts)).encode()
        return {"facts": np.frombuffer(text, dtype=np.uint8), **found}


def _facts_of(part: Arrays) -> ShardFacts:
    facts = parse_json(part["facts"].tobytes(), "facts of a shard")
    return ShardFacts(**{**facts, "shuffled": tuple(facts["shuffled"])})


def read_shards(
    runner: ShardRunner, source: EmbeddedSource, settings: ScanSettings, progress: RunProgress
) -> tuple[ShardFacts, ReadPairs]:
    """Run the first pass: check all shards, compute distances, and draw the sample.

    Raises:
        InputError: If no shard is readable, embeddings have different dimensions, or none is usable.
    """
    plan = SamplePlan(max(1, source.pairs), settings.sample, settings.seed)
    read = read_pairs(runner, CheckedReadPass(plan), settings.seed, progress.progress)
    parts = (part for _, part in runner.whole_parts(READ, only="facts"))
    facts = reduce(ShardFacts.merge, map(_facts_of, parts), ShardFacts())
    if not facts.usable:
        raise NothingLeft(
            f"{source.root}: no pair can be judged: {count_of(facts.rows, 'pair')}, each with an embedding that is "
            "zero, infinite or not a number: embed the data again"
        )
    return facts, read


def _kinds(runner: ShardRunner, pairs: Reduced) -> npt.NDArray[np.intp] | None:
    """Return the class of each image from a column of the data, -1 for none; None without such a column."""
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
    # a column with other values, such as long texts, does not define classes
    return kind if 2 <= len(known) <= len(kind) / FEWEST_OF_A_KIND else None


FEWEST_OF_A_KIND = 5
"""Minimum average number of images per value for a column to define classes."""


def _out_of_order(facts: ShardFacts) -> bool:
    """Check for conclusive evidence that files do not belong together."""
    stored = facts.score_mean is not None and facts.score_mean > SCORE_OFF
    wrong = len(facts.shuffled)
    return 0 < wrong < facts.compared or facts.captions_out_of_order or (stored and wrong > 0)


def describe_methods(judged: Judged) -> list[str]:
    """Describe what was computed, one line each."""
    encoder, shards = judged.opened.encoder, len(judged.opened.source.shards)
    embedded = f"embedded with {encoder}" if encoder else "embeddings as they are stored"
    lines = [f"{count_of(judged.facts.rows, 'pair')} in {count_of(shards, 'shard')}, {embedded}"]
    if judged.finding.groups is None:
        return [*lines, f"{judged.method.name}: {judged.method.summary}"]
    return [
        *lines,
        "suspicious-groups in passes over the shards (docs: Scan my data); a group is a suspected goal if at most "
        f"{judged.finding.level:.0%} of clean sets have one as strong, measured on sets of up to 15,000 pairs. Above "
        "40,000 images the scan allows for more chance (chosen on clean synthetic sets of a million pairs)",
    ]
