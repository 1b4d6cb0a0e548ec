"""Decides which pairs of a scan are dropped, and writes the lists, `scan.json` and the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison._version import __version__
from mmpoison.base.files import atomic_folder, write_json
from mmpoison.defenses.filters.decide import mismatched_distances
from mmpoison.defenses.filters.distance import LARGEST, DistanceCounts
from mmpoison.defenses.filters.filtered_folder import (
    FACTS_FILE,
    GOALS_FILE,
    REPORT_FOLDER,
    VERDICTS_FILE,
    data_pointer,
    verdict_line,
)
from mmpoison.defenses.filters.suspicious_groups.passes import SCORE, Group, scores_of
from mmpoison.defenses.filters.suspicious_groups.shard import Sample
from mmpoison.defenses.unreadable import write_unreadable
from mmpoison.embedded.checks import ShardFacts
from mmpoison.embedded.keep_lists import KEEP_FILE, KEEP_FOLDER
from mmpoison.embedded.results import NO_GROUP, ShardVerdict, write_results
from mmpoison.embedded.source import Shard, ShardError
from mmpoison.records.data_scan import SCAN_FILE, SCAN_PAGE, DataScan
from mmpoison.reporting.scan_page import write_scan_page
from mmpoison.reporting.text import percent
from mmpoison.runs.data_scan.goal_words import (
    DescribedGroup,
    ScanFinding,
    ScanOutput,
    grade_of,
    next_steps,
    verdict_of,
)
from mmpoison.runs.data_scan.group_passes import READ
from mmpoison.runs.data_scan.shard_passes import ShardRunner
from mmpoison.runs.data_scan.sources import OpenedSource
from mmpoison.runs.progress import RunProgress

# -- Writes what `mmpoison review` reads, where the pairs themselves were scanned: a verdict and a goal for
# each pair.


def write_review_files(
    folder: Path,
    verdicts: Iterable[tuple[Shard, ShardVerdict]],
    *,
    data: str,
    out: Path,
    score_name: str,
    goals: Sequence[Mapping[str, Any]],
    unreadable: Mapping[str, str],
) -> None:
    """Write `verdicts.jsonl`, `suspected-goals.json` and `filter-report/filter.json`, as a filter does.

    Args:
        folder: The folder of the scan, before it gets its name.
        verdicts: Shards whose tables have the columns `pair`, `image` and `caption`, with the verdicts on their pairs.
        data: The set as it was given.
        out: The folder's name.
        score_name: What the score of a pair is.
        goals: The suspected goals as JSON values.
        unreadable: Images that cannot be read, and why; their pairs have no verdict.
    """
    with (folder / VERDICTS_FILE).open("w", encoding="utf-8") as stream:
        for shard, verdict in verdicts:
            table = shard.table(np.arange(len(verdict.score))).to_pylist()
            group = verdict.group if verdict.group is not None else np.full(len(table), NO_GROUP)
            for row, own in enumerate(table):
                if own["image"] in unreadable:
                    continue
                score = float(verdict.score[row])
                line = verdict_line(
                    own["pair"],
                    own["image"],
                    own["caption"],
                    score if np.isfinite(score) else 0.0,
                    keep=not bool(verdict.drop[row]),
                    goal=None if group[row] == NO_GROUP else int(group[row]),
                )
                stream.write(json.dumps(line) + "\n")
    write_json(folder / GOALS_FILE, {"goals": list(goals), "not_significant": []})
    (folder / REPORT_FOLDER).mkdir()
    facts = {"data": data, "score_name": score_name, **data_pointer(data, out)}
    write_json(folder / REPORT_FOLDER / FACTS_FILE, facts)
    write_unreadable(folder, unreadable)


SCORE_BINS, LARGEST_SCORE = 320_000, 320.0
"""Bins of the scores of groups: a cut is right up to 0.001."""

HISTOGRAM_BINS = 200

THUMBNAIL = 160
"""Longest side of a picture on the page."""

ADDRESSES = ("url", "image_url", "URL")
"""Own columns that say where an image is in the web."""

DISTANCE, EVIDENCE = "cosine distance of image and caption", "evidence of suspicious groups"


@dataclass(frozen=True)
class DropRule:
    """Which single pairs are dropped, besides those of suspected goals.

    Attributes:
        score: What the score of a pair is: its distance, or the evidence of suspicious-groups.
        above: Pairs with a larger score are dropped; None drops no single pair.
        what: The rule in words, empty where there is none.
    """

    score: Literal["distance", "score"]
    above: float | None = None
    what: str = ""

    @property
    def name(self) -> str:
        """What the score is, in words."""
        return DISTANCE if self.score == "distance" else EVIDENCE


@dataclass(frozen=True)
class Judged:
    """A source that was scanned.

    Attributes:
        opened: The source.
        finding: What the verdict is made of.
        facts: Of its shards.
        counted: Distances of its pairs.
        sample: A small sample of its pairs.
        described: Groups in words, the strongest first.
        rule: Which single pairs are dropped.
        notes: What a user must know.
        seed: Of everything random.
        scan: What was written; None before that.
        out: The folder that was written.
    """

    opened: OpenedSource
    finding: ScanFinding
    facts: ShardFacts
    counted: DistanceCounts
    sample: Sample
    described: Sequence[DescribedGroup]
    rule: DropRule
    notes: Sequence[str]
    seed: int
    scan: DataScan | None = None
    out: Path | None = None

    @property
    def goals(self) -> list[DescribedGroup]:
        """The suspected goals."""
        return [one for one in self.described if one.group.false_alarms <= self.finding.level]


def drop_rule(
    runner: ShardRunner,
    lose: float | None,
    counted: DistanceCounts,
    groups: Sequence[Group],
    *,
    aligned: bool,
    scored: bool,
) -> DropRule:
    """Choose by which score single pairs are dropped: distance, where embeddings are aligned, else evidence.

    Args:
        runner: Has the scores.
        lose: Share of the pairs to drop; None for none.
        counted: Distances of all pairs.
        groups: All groups.
        aligned: Whether distances say something of a single pair.
        scored: Whether the evidence was computed.
    """
    by: Literal["distance", "score"] = "distance" if aligned or not scored else "score"
    if lose is None:
        return DropRule(by)
    if by == "distance":
        above = counted.loss_cut(lose)
    else:
        counts = np.zeros(SCORE_BINS, dtype=np.int64)
        for number, (conflict,) in runner.parts(SCORE, "score"):
            score = scores_of(conflict, number, groups)
            usable = score[~np.isnan(score)]
            place = (usable * (SCORE_BINS / LARGEST_SCORE)).astype(np.int64)
            counts += np.bincount(place.clip(0, SCORE_BINS - 1), minlength=SCORE_BINS)
        # the smallest bin above which at most the share lies
        beyond = np.cumsum(counts[::-1])[::-1] <= lose * max(int(counts.sum()), 1)
        above = int(np.argmax(beyond)) * LARGEST_SCORE / SCORE_BINS if beyond.any() else np.inf
    rule = DropRule(by, float(above))
    return replace(
        rule,
        what=f"single pairs with a {rule.name} above {above:.4f}, {percent(lose)} of the pairs, are dropped too",
    )


def write_verdicts(
    judged: Judged,
    runner: ShardRunner,
    out: Path,
    progress: RunProgress,
    methods: Sequence[str] = (),
) -> Judged:
    """Write the folder of a scan, whole or not at all.

    Args:
        judged: What was found.
        runner: Has the scores of the shards.
        out: New folder.
        progress: Reports the progress.
        methods: What was computed, a line each.

    Returns:
        The same, with what was written.
    """
    sentences = [str(one.goal) for one in judged.goals]
    goals = [one.group for one in judged.goals]
    groups = [one.group for one in judged.described]
    goals_json = [one.goal.to_json() for one in judged.goals]
    opened, source = judged.opened, judged.opened.source
    report = progress.progress("writing lists")
    with atomic_folder(out) as folder:
        with write_results(folder, source) as results:
            for number, shard in enumerate(source.shards):
                if number in runner.failed:
                    results.fail(shard, runner.failed[number])
                else:
                    verdict = _verdict_of(judged.rule, goals, sentences, runner, number, groups)
                    try:
                        results.add(shard, verdict)
                    except ShardError as error:
                        results.fail(shard, str(error))
                        runner.failed[number] = str(error)
                report(number + 1, len(source.shards))
            results.name_groups(goals_json)
        if opened.encoder is not None:  # pairs can be shown; embeddings alone cannot
            write_review_files(
                folder,
                (
                    (shard, _verdict_of(judged.rule, goals, sentences, runner, number, groups))
                    for number, shard in enumerate(source.shards)
                    if number not in runner.failed
                ),
                data=source.root,
                out=out,
                score_name=judged.rule.name,
                goals=goals_json,
                unreadable=opened.unreadable,
            )
        runner.refuse_changed()
        kept = next((n for n in (KEEP_FILE, KEEP_FOLDER) if (folder / n).exists()), None)
        scan = _record(judged, runner, results.shard_counts, results.notes, kept, methods, out)
        write_json(folder / SCAN_FILE, scan.to_json())
        write_scan_page(folder / SCAN_PAGE, scan)
    return replace(judged, scan=scan, out=out)


def _verdict_of(
    rule: DropRule,
    goals: Sequence[Group],
    sentences: Sequence[str],
    runner: ShardRunner,
    number: int,
    groups: Sequence[Group],
) -> ShardVerdict:
    """Return the verdict on the pairs of one shard."""
    if rule.score == "distance":
        (score,) = runner.part(READ, number, "distance")
    else:
        score = scores_of(runner.part(SCORE, number, "score")[0], number, groups)
    unusable = np.isnan(score)
    group = np.full(len(score), NO_GROUP)
    for place, goal in reversed(list(enumerate(goals))):
        if number in goal.rows:
            group[goal.rows[number]] = place
    above = np.zeros(len(score), bool) if rule.above is None else score > rule.above
    drop = unusable | above | (group != NO_GROUP)
    reasons = []
    for row in np.flatnonzero(drop):
        if group[row] != NO_GROUP:
            reasons.append(sentences[group[row]])
        elif unusable[row]:
            reasons.append("no usable embedding: zero, infinite or not a number")
        else:
            reasons.append(f"{rule.name} above {rule.above:.4f}")
    return ShardVerdict(score, drop, group, reasons)


def _record(
    judged: Judged,
    runner: ShardRunner,
    shards: Sequence[dict[str, Any]],
    notes: Sequence[str],
    kept: str | None,
    methods: Sequence[str],
    out: Path,
) -> DataScan:
    verdict, summary = verdict_of(judged.finding)
    dropped = sum(shard["dropped"] for shard in shards)
    judge = judged.finding.judge
    level = judged.finding.level
    groups = [
        {
            **_group_json(one, runner, judged.opened.root),
            "grade": grade_of(one.group.false_alarms, level),
        }
        for one in judged.described
    ]
    return DataScan.of(
        {
            "source": judged.opened.source.root,
            "format": judged.opened.source.format,
            "pairs": judged.facts.rows,
            "verdict": verdict,
            "summary": summary,
            "next_steps": next_steps(
                judged.finding,
                verdict,
                ScanOutput(
                    out,
                    kept,
                    dropped,
                    judged.opened.encoder is not None,
                    judged.rule.score == "distance",
                    judged.rule.above is not None,
                ),
            ),
            "notes": [*judged.notes, *(note for note in notes if note not in judged.notes)],
            "score_name": judged.rule.name,
            "methods": [*methods, *([judged.rule.what] if judged.rule.what else [])],
            **({} if judge is None else {"judge_auroc": judge.value}),
            **(
                {"judge_interval": [judge.low, judge.high]}
                if judge is not None and judge.low is not None
                else {}
            ),
            "dropped": dropped,
            "unusable": judged.facts.not_finite + judged.facts.zero,
            "groups": groups,
            "planted": [
                {"images": one.images, "planted": one.planted, "found": one.found}
                for one in judged.finding.planted or ()
            ],
            "sample": judged.finding.sample,
            "histogram": _histogram(judged),
            "shards": [
                {
                    "shard": shard["shard"],
                    "pairs": shard["rows"],
                    "dropped": shard["dropped"],
                    "unusable": shard["not_judged"],
                }
                for shard in shards
                if shard["error"] is None
            ],
            "failed": [
                {"shard": shard["shard"], "reason": shard["error"]}
                for shard in shards
                if shard["error"] is not None
            ],
            "seed": judged.seed,
            "tool_version": __version__,
        }
    )


def _group_json(
    described: DescribedGroup, runner: ShardRunner, root: Path | None
) -> dict[str, Any]:
    goal = described.goal
    places = described.examples
    ids = {number: _ids_of(runner.shards[number]) for number in {p.shard for p in places}}
    examples = [
        {"caption": caption, **_example(runner.shards[p.shard], ids[p.shard], p.row, root)}
        for p, caption in zip(places, described.captions, strict=True)
    ]
    return {
        "sentence": str(goal),
        "pairs": len(goal.rows),
        "images": goal.images,
        "false_alarms": goal.false_alarms,
        "false_alarms_hardest": goal.hardest,
        "score": round(goal.score, 2),
        "why": goal.why,
        "other_explanations": list(goal.other_explanations),
        "captions_about": list(goal.captions_about),
        "images_about": list(goal.images_about),
        "examples": examples,
    }


def _ids_of(shard: Shard) -> list[str] | None:
    try:
        return shard.ids()
    except ShardError:
        return None


def _example(
    shard: Shard, ids: Sequence[str] | None, row: int, root: Path | None
) -> dict[str, str]:
    """Return the name of a pair, and the address in the web or a small picture of its image, where there is one."""
    name = f"shard {shard.name}, row {row}"
    if ids is None:
        return {"id": name}
    try:
        table = shard.table(np.array([row])).to_pylist()[0]
    except ShardError:
        return {"id": name}
    found = {"id": name if ids[row] == str(row) else f"{ids[row]} ({name})"}
    address = next((table[key] for key in ADDRESSES if isinstance(table.get(key), str)), None)
    if address is not None:
        found["address"] = address
    if root is not None and (picture := _picture(root, str(table["image"]))):
        found["picture"] = picture
    return found


def _picture(root: Path, image: str) -> str | None:
    from mmpoison.evaluation.lists import (
        thumbnail_address,
    )  # imports torch: pairs were embedded here
    from mmpoison.images.decode import BrokenImage

    try:
        return thumbnail_address(root, image, THUMBNAIL)
    except BrokenImage:
        return None


def _histogram(judged: Judged) -> dict[str, Any] | None:
    """Return how many pairs have each distance, and captions with random images; None where nothing is counted."""
    if not len(judged.counted):
        return None
    width = len(judged.counted.counts) // HISTOGRAM_BINS
    counts = judged.counted.counts.reshape(HISTOGRAM_BINS, width).sum(axis=1)
    edges = np.linspace(0, LARGEST, HISTOGRAM_BINS + 1)
    text, image = (_unit(side) for side in (judged.sample.text, judged.sample.image))
    shuffled = np.histogram(mismatched_distances(text, image), edges)[0]
    used = np.flatnonzero(counts + shuffled)
    part = slice(int(used[0]), int(used[-1]) + 1)
    return {
        "edges": [round(float(e), 4) for e in edges[part.start : part.stop + 1]],
        "own": counts[part].tolist(),
        "shuffled": shuffled[part].tolist(),
    }


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide = np.asarray(vectors, dtype=np.float32)
    found: npt.NDArray[np.float32] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return found
