"""Writes the results of a scan: lists of pairs, `scan.json`, the page, and the kept pairs as a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shlex import join
from typing import Any

import numpy as np

from mmpoison._version import __version__
from mmpoison.base.files import atomic_folder, write_json
from mmpoison.base.progress import RunProgress
from mmpoison.datasets.catalogue import NamedData
from mmpoison.defenses.scan.cut.judging import Judgement, judge_note
from mmpoison.defenses.scan.cut.result import NO_GROUP, ShardVerdict, known_facts
from mmpoison.defenses.scan.cut.score_filter import ScoreFilter
from mmpoison.defenses.scan.groups.describe import DescribedGroup
from mmpoison.defenses.scan.read.checks import ShardFacts
from mmpoison.defenses.scan.read.files import ShardError
from mmpoison.defenses.scan.read.pieces import absent, write_unreadable
from mmpoison.defenses.scan.read.shards import Shard
from mmpoison.defenses.scan.read.tables import ADDRESSES
from mmpoison.defenses.scan.read.vector_shard import DISTANCE
from mmpoison.defenses.scan.shard_runner import ShardRunner
from mmpoison.defenses.scan.sources import OpenedSource, broken_sources
from mmpoison.defenses.scan.write.keep_lists import KEEP_FILE, KEEP_FOLDER
from mmpoison.defenses.scan.write.own_files import save_kept, write_own_files
from mmpoison.defenses.scan.write.tables import ResultWriter, write_results
from mmpoison.defenses.scan.write.verdict import (
    ScanFinding,
    ScanOutput,
    grade_of,
    next_steps,
    verdict_of,
)
from mmpoison.pairs.folder import CAPTIONS_FILE, ImagePolicy
from mmpoison.records.data_scan import SCAN_FILE, SCAN_PAGE, DataScan
from mmpoison.reporting.scan_result import write_scan_page

HISTOGRAM_BINS = 200

KEPT_MARK = "kept"
"""File in the work folder that marks that this scan has begun to write `--kept`."""

WORST = 48
"""Number of most suspicious pairs on the page, for methods without groups."""

THUMBNAIL = 160
"""Longest side of a thumbnail on the page, in pixels."""


@dataclass(frozen=True)
class Judged:
    """A scanned source.

    Attributes:
        opened: The source.
        method: The method that judged it.
        judgement: The judgement on its pairs.
        finding: The basis of the verdict.
        facts: Facts about its shards.
        notes: Notes for the user.
        seed: Seed for all random choices.
        scan: The written scan record; None before writing.
    """

    opened: OpenedSource
    method: ScoreFilter
    judgement: Judgement
    finding: ScanFinding
    facts: ShardFacts
    notes: Sequence[str]
    seed: int
    scan: DataScan | None = None

    @property
    def score_name(self) -> str:
        """What a pair's score means."""
        return self.judgement.scores.name or self.method.score_name

    @property
    def groups(self) -> Sequence[DescribedGroup]:
        """Groups in words, the strongest first."""
        return self.finding.groups or ()

    @cached_property
    def known(self) -> dict[str, Any] | None:
        """Comparison with the manifest; None without a manifest or without poison."""
        pairs, pieces = self.opened.pairs, self.opened.pieces
        if pairs is None or pieces is None or pieces.manifest is None:
            return None
        usable = pairs.readable
        bad = pairs.poisoned[usable]
        if not bad.any():
            return None
        scores, keep = self.judgement.joined()
        return _without(known_facts(keep[usable], scores[usable], bad), "histogram")

    def verdict(self, number: int) -> ShardVerdict:
        """Return the verdict on a shard's pairs, with reasons."""
        found = self.judgement.verdict(number)
        group = np.full(len(found.drop), NO_GROUP) if found.group is None else found.group
        likely, cut = len(self.judgement.likely or ()), self.judgement.cut.value
        reasons = []
        broken = self._broken(number)
        for row in np.flatnonzero(found.drop).tolist():
            if row in broken:
                reasons.append(f"its image cannot be read: {broken[row]}")
            elif np.isnan(found.score[row]):
                reasons.append("no usable embedding: zero, infinite or not a number")
            elif 0 <= group[row] < likely:
                reasons.append(str(self.groups[group[row]]))
            elif found.score[row] > cut:
                reasons.append(f"{self.score_name} above {cut:.4f}")
            else:
                reasons.append("dropped by hand")
        return replace(found, reason=reasons)

    def _broken(self, number: int) -> dict[int, str]:
        """Return image problems of a shard's pairs, by row."""
        reasons = self.opened.unreadable.reasons
        if not reasons:
            return {}
        images = self.opened.source.shards[number].image_ids() or ()
        return {row: reasons[image] for row, image in enumerate(images) if image in reasons}


@dataclass(frozen=True)
class KeptFolder:
    """The folder in which the kept pairs are written as a data set.

    Attributes:
        out: New folder.
        images: How images are stored, as in `save_pairs`.
    """

    out: Path
    images: ImagePolicy = "link"


def write_scan(
    judged: Judged,
    runner: ShardRunner,
    out: Path,
    progress: RunProgress,
    methods: Sequence[str] = (),
    kept: KeptFolder | None = None,
) -> Judged:
    """Write the result folder of a scan atomically.

    Args:
        judged: The results.
        runner: The runner, which has the scores of the shards.
        out: New folder.
        progress: Reports the progress.
        methods: Computations, one line each.
        kept: Where to write the kept pairs as well.

    Returns:
        The same, including the written record.
    """
    opened, source = judged.opened, judged.opened.source
    groups = [_group_json(judged, one, runner) for one in judged.groups]
    report = progress.progress("writing lists")
    with atomic_folder(out) as folder:
        gone: list[Any] | None = None if opened.pieces is None else []
        with write_results(folder, source, gone=gone) as results:
            for number, shard in enumerate(source.shards):
                if number in runner.failed:
                    results.fail(shard, runner.failed[number])
                else:
                    try:
                        results.add(shard, judged.verdict(number))
                    except ShardError as error:
                        results.fail(shard, str(error))
                        runner.failed[number] = str(error)
                report(number + 1, len(source.shards))
            results.name_groups([_without(group, "examples") for group in groups])
        write_unreadable(folder, opened.unreadable.reasons)
        runner.refuse_changed()
        notes: list[str] = []
        if opened.pieces is None or gone is None:
            listed = next((n for n in (KEEP_FILE, KEEP_FOLDER) if (folder / n).exists()), None)
        else:
            _, keep = judged.judgement.joined()
            listed, notes = write_own_files(opened.pieces, keep, gone, folder)
            if kept is not None and opened.pieces.manifest is not None:
                notes = []  # they say to use --kept
        output = ScanOutput(
            out,
            listed,
            sum(shard["dropped"] for shard in results.shards),
            opened.pieces is not None,
            judged.score_name == DISTANCE,
            judged.judgement.cut.rule != "false-alarms",
            None if kept is None else kept.out,
            judged.method.cut.labels,
            _again(judged),
            opened.data_root,
            join(_named(opened).words()) if opened.named is not None else ScanOutput.data,
        )
        judged = replace(judged, notes=[*judged.notes, *notes])
        scan = _record(judged, runner, results, output, groups, methods)
        write_json(folder / SCAN_FILE, scan.to_json())
        write_scan_page(folder / SCAN_PAGE, scan)
        if kept is not None:
            _write_kept(judged, kept, runner.work / KEPT_MARK)
    return replace(judged, scan=scan)


def _write_kept(judged: Judged, kept: KeptFolder, mark: Path) -> None:
    """Write the kept pairs, unless the same scan wrote them before a kill. Unreadable images are left out."""
    opened = judged.opened
    assert opened.pieces is not None
    assert opened.pairs is not None
    _, keep = judged.judgement.joined()
    this = f"{hashlib.sha256(keep.tobytes()).hexdigest()} {kept.images} {kept.out.absolute()}"
    if mark.is_file() and mark.read_text() == this and (kept.out / CAPTIONS_FILE).is_file():
        return
    mark.write_text(this)
    unreadable = opened.unreadable
    if opened.trusted is not None:
        unreadable = unreadable.plus(opened.trusted.unreadable)
    opened.pieces.leave_out(unreadable.reasons)
    if kept.images != "none":
        opened.pieces.leave_out(absent(opened.pieces.absent, unreadable).reasons)
    facts = {
        "method": judged.method.name,
        "encoder": opened.encoder,
        "threshold": round(judged.judgement.cut.value, 6),
        **(judged.known or {}),
    }
    save_kept(opened.pieces, keep[opened.pairs.readable], facts, kept.out, images=kept.images)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _record(
    judged: Judged,
    runner: ShardRunner,
    results: ResultWriter,
    output: ScanOutput,
    groups: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
) -> DataScan:
    verdict, summary = verdict_of(judged.finding)
    opened, cut, read = judged.opened, judged.judgement.cut, judged.judgement.read
    judge = read.judge
    notes = [*judged.notes, *judged.judgement.scores.notes]
    if judge is not None and judged.method.needs_aligned_judge:
        notes.append(judge_note(judge))
    if cut.note:
        notes.append(cut.note)
    above = []
    if cut.rule != "false-alarms":
        above = [f"pairs above {cut.value:.4f} ({judged.score_name}) are dropped"]
    return DataScan.of(
        {
            "source": opened.source.root,
            "data_path": _data_path(opened.source.root, output.out),
            "format": opened.source.format,
            "pairs": judged.facts.rows,
            "method": judged.method.name,
            "encoder": opened.encoder,
            "verdict": verdict,
            "summary": summary,
            "next_steps": next_steps(judged.finding, verdict, output),
            "notes": list(dict.fromkeys([*notes, *results.notes])),
            "score_name": judged.score_name,
            "cut": cut.facts(),
            "methods": [*methods, *above],
            "judge_auroc": None if judge is None or not _compared(judged) else judge.value,
            "judge_interval": None
            if judge is None or judge.low is None or not _compared(judged)
            else [judge.low, judge.high],
            "dropped": output.dropped,
            "unusable": judged.facts.unusable,
            "known": judged.known,
            "groups": groups,
            "worst": _worst(judged, runner),
            "planted": [
                {"images": one.images, "planted": one.planted, "found": one.found}
                for one in judged.finding.planted or ()
            ],
            "sample": judged.finding.sample,
            "histogram": _histogram(judged),
            "shards": results.shards,
            "failed": [*results.failed, *broken_sources(opened)],
            "left_out": opened.left_out,
            "data_root": _data_path(str(opened.data_root), output.out)
            if opened.data_root is not None
            else None,
            "data_format": opened.named.format if opened.named is not None else None,
            "data_options": {} if opened.named is None else dict(opened.named.options),
            "seed": judged.seed,
            "tool_version": __version__,
        }
    )


def _again(judged: Judged) -> str:
    """Return the command to scan the same data with the same model; empty for a set in memory."""
    opened, source = judged.opened, judged.opened.source
    if opened.pieces is None:
        return join(["mmpoison", "scan", source.root])
    if opened.named is None:
        return ""
    encoder = [] if opened.judge is None else ["--encoder", opened.judge]
    return join(["mmpoison", "scan", *_named(opened).words()[1:], *encoder])


def _named(opened: OpenedSource) -> NamedData:
    """Return the user's source, with the image folder that was found."""
    assert opened.named is not None
    return replace(opened.named, root=opened.data_root)


def _compared(judged: Judged) -> bool:
    """Check whether distances between captions and images are meaningful, unlike those between two trunks' outputs."""
    return judged.opened.encoder is None or judged.method.joint


def _data_path(source: str, out: Path) -> str | None:
    """Return the data set's path relative to the result folder; None for a set without a path.

    With a relative path, the two can be moved together and found from any folder.
    """
    if not os.path.exists(source):  # noqa: PTH110  -- a name that is no path is no error
        return None
    return os.path.relpath(Path(source).resolve(), out.resolve())


def _group_json(judged: Judged, described: DescribedGroup, runner: ShardRunner) -> dict[str, Any]:
    places = described.examples
    ids = {number: _ids_of(runner.shards[number]) for number, _ in places}
    root = None if judged.opened.pairs is None else judged.opened.pairs.root
    examples = [
        {"caption": caption, **_example(runner.shards[number], ids[number], row, root)}
        for (number, row), caption in zip(places, described.captions, strict=True)
    ]
    return {
        **_without(described.to_json(), "example_captions", "conflicting", "expected"),
        "grade": grade_of(described.group.false_alarms, judged.finding.level),
        "examples": examples,
    }


def _worst(judged: Judged, runner: ShardRunner) -> list[dict[str, Any]]:
    """Return the most suspicious pairs, for methods that score single pairs."""
    if judged.finding.groups is not None:
        return []
    root = None if judged.opened.pairs is None else judged.opened.pairs.root
    best: list[tuple[float, int, int]] = []
    for number, verdict in judged.judgement.verdicts():
        score = np.nan_to_num(verdict.score, nan=-np.inf)
        rows = np.argsort(-score, kind="stable")[:WORST]
        best += [(float(score[row]), number, int(row)) for row in rows if np.isfinite(score[row])]
    best = sorted(best, key=lambda one: (-one[0], one[1:]))[:WORST]
    found = []
    for score, number, row in best:
        shard = runner.shards[number]
        captions = shard.captions()
        found.append(
            {
                "caption": "" if captions is None else str(captions[row]),
                "score": round(score, 4),
                **_example(shard, _ids_of(shard), row, root),
            }
        )
    return found


def _ids_of(shard: Shard) -> list[str] | None:
    try:
        return shard.ids()
    except ShardError:
        return None


def _example(
    shard: Shard, ids: Sequence[str] | None, row: int, root: Path | None
) -> dict[str, str]:
    """Return a pair's name, and the web address or thumbnail of its image, if any."""
    name = f"shard {shard.name}, row {row}"
    if ids is None:
        return {"id": name}
    try:
        table = shard.table(np.array([row])).to_pylist()[0]
    except ShardError:
        return {"id": name}
    if root is not None:  # for pairs, the row refers to their source
        name = f"{table['shard']} row {table['row']}" if table["shard"] else f"row {table['row']}"
    found = {"id": name if ids[row] == str(row) else f"{ids[row]} ({name})"}
    address = next((table[key] for key in ADDRESSES if isinstance(table.get(key), str)), None)
    if address is not None:
        found["address"] = address
    if root is not None and (picture := _picture(root, str(table["image"]))):
        found["picture"] = picture
    return found


def _picture(root: Path, image: str) -> str | None:
    # imports torch, which was needed to embed the pairs anyway
    from mmpoison.evaluation.lists import thumbnail_address
    from mmpoison.images.decode import BrokenImage

    try:
        return thumbnail_address(root, image, THUMBNAIL)
    except BrokenImage:
        return None


def _histogram(judged: Judged) -> dict[str, Any] | None:
    """Count pairs and dropped pairs by score and, if scores are distances, captions with random images."""
    of, numbers = judged.judgement.scores.of, sorted(judged.judgement.read.runner.shards)
    low, high = np.inf, -np.inf
    for number in numbers:
        score = of(number)
        score = score[~np.isnan(score)]
        low, high = (
            min(low, float(score.min(initial=np.inf))),
            max(high, float(score.max(initial=-np.inf))),
        )
    if not np.isfinite([low, high]).all():
        return None
    shuffled = judged.judgement.mismatched[:0]
    if judged.score_name == DISTANCE:
        shuffled = judged.judgement.mismatched
        low, high = min(low, shuffled.min(initial=low)), max(high, shuffled.max(initial=high))
    edges = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
    own, dropped = np.zeros((2, HISTOGRAM_BINS), dtype=np.int64)
    for _, verdict in judged.judgement.verdicts():
        own += np.histogram(verdict.score, edges)[0]
        dropped += np.histogram(verdict.score[verdict.drop], edges)[0]
    return {
        "edges": [round(float(e), 4) for e in edges],
        "own": own.tolist(),
        "dropped": dropped.tolist(),
        "shuffled": np.histogram(shuffled, edges)[0].tolist(),
    }
