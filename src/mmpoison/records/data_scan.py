"""`scan.json`: the result of a data scan, which the page and the command line show."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mmpoison.base.record import Number, Record
from mmpoison.errors import InputError

SCAN_FILE, SCAN_PAGE = "scan.json", "scan.html"

ScanVerdict = Literal[
    "poisoning likely", "look at these groups", "nothing stands out", "cannot be decided"
]
GroupGrade = Literal["poisoning likely", "look at this group", "as in clean data"]
"""Grades, set by how often ordinary clean sets contain a group as strong as the strongest one."""


class ExamplePair(Record):
    """A pair shown as an example.

    Attributes:
        id: Its id.
        caption: Its caption.
        address: Web address of its image, if the data have one.
        picture: A thumbnail, as a `data:` address.
        score: Its score, if it is shown because of its score.
    """

    id: str
    caption: str = ""
    address: str | None = None
    picture: str | None = None
    score: Number | None = None


class ScanGroup(Record):
    """A group of pairs in which captions of one kind are paired with images of another kind.

    Attributes:
        sentence: A sentence that describes it.
        grade: How suspicious it is. Pairs of a likely group are dropped.
        pairs: Number of pairs.
        images: Number of images.
        false_alarms: Share of ordinary clean sets that contain a group this strong, in (0, 1].
        false_alarms_hardest: The same share for the hardest kind of clean sets; None if not measured.
        score: How strong it is.
        why: What is suspicious about it.
        other_explanations: What else could explain it.
        captions_about: Words that distinguish its captions.
        images_about: Words that distinguish the captions of similar images.
        examples: Some of its pairs.
    """

    sentence: str
    pairs: int
    images: int
    false_alarms: Number
    false_alarms_hardest: Number | None = None
    grade: GroupGrade = "as in clean data"
    score: Number
    why: str = ""
    other_explanations: list[str] = []
    captions_about: list[str] = []
    images_about: list[str] = []
    examples: list[ExamplePair] = []


class PlantedCount(Record):
    """How many planted test goals the scan finds.

    Attributes:
        images: Images per goal.
        planted: Number of goals planted.
        found: Number of goals found.
    """

    images: int
    planted: int
    found: int


class Histogram(Record):
    """Numbers of pairs by score.

    Attributes:
        edges: Bin edges, one more than bins.
        own: Counts of pairs per bin.
        dropped: Counts of dropped pairs per bin.
        shuffled: Counts for captions with random images, on their own scale; empty if they are not informative.
    """

    edges: list[Number]
    own: list[int]
    dropped: list[int] = []
    shuffled: list[int] = []


class FailedShard(Record):
    """A shard that could not be read.

    Attributes:
        shard: Its name.
        reason: The reason, in one line.
    """

    shard: str
    reason: str


class LeftOutRows(Record):
    """Rows of the data that contain no pair. They are not judged, and neither kept nor dropped.

    Attributes:
        rows: Their number, as far as known.
        examples: The first of them, one line each: place and reason.
    """

    rows: int = 0
    examples: list[str] = []


class ShardDrop(Record):
    """Counts of dropped pairs in a shard.

    Attributes:
        shard: Its name.
        pairs: How many it has.
        dropped: Number of pairs dropped.
        unusable: Number of pairs without usable embeddings.
    """

    shard: str
    pairs: int
    dropped: int
    unusable: int = 0


class KnownPoison(Record):
    """Scan results compared with the manifest of a poisoned set.

    Attributes:
        poisoned_total: Poisoned pairs that were judged.
        poisoned_caught: Poisoned pairs that are dropped.
        clean_dropped: Clean pairs that are dropped.
        clean_dropped_share: Their share of the clean pairs.
        auroc: Probability that a poisoned pair scores above a clean one.
        average_precision: Area under the curve of precision against recall.
    """

    poisoned_total: int
    poisoned_caught: int
    clean_dropped: int
    clean_dropped_share: Number | None = None
    auroc: Number | None = None
    average_precision: Number | None = None


class ScanCut(Record):
    """A scan's threshold; `mmpoison.defenses.Threshold` explains it."""

    value: Number
    rule: str
    interval: list[Number] | None = None
    loss: Number | None = None
    loss_interval: list[Number] | None = None
    note: str = ""


class DataScan(Record):
    """A scan of a data set.

    Attributes:
        source: What was scanned.
        data_path: Its path, relative to the result folder; None for a set without a path.
        format: Its format.
        pairs: Number of pairs, without unreadable shards.
        method: What scored the pairs.
        encoder: The model that embedded them; None for precomputed embeddings.
        verdict: The verdict, a grade.
        summary: The verdict in words, with its certainty.
        next_steps: Recommended next steps.
        notes: Further notes for the reader.
        score_name: What a pair's score means.
        cut: The threshold.
        methods: Computations, one line each.
        judge_auroc: Probability that a caption is nearer to its own image than to a random one, in [0, 1].
        judge_interval: Its 95% interval.
        dropped: Number of pairs to drop.
        unusable: Dropped pairs with broken embeddings.
        known: Comparison with the manifest of a poisoned set.
        worst: The most suspicious pairs, for a method without groups.
        groups: The strongest groups, at most ten, whatever their score.
        planted: How many planted test goals the scan finds.
        sample: Size of the sample with planted goals, in pairs.
        histogram: Histogram of the scores.
        shards: Counts per shard.
        failed: Unreadable shards, and pair files that could not be read to the end.
        left_out: Rows without a pair; None if every row has one.
        data_root: Folder of the images, relative to the result folder, if the data do not define it.
        data_format: The format, if it was given.
        data_options: Options of the format or data set.
        seed: Seed for all random choices.
        tool_version: Version of mmpoison.
    """

    source: str
    data_path: str | None = None
    format: str
    pairs: int
    method: str = "suspicious-groups"
    encoder: str | None = None
    verdict: ScanVerdict
    summary: list[str]
    next_steps: list[str] = []
    notes: list[str] = []
    score_name: str = "score"
    cut: ScanCut | None = None
    methods: list[str] = []
    judge_auroc: Number | None = None
    judge_interval: list[Number] | None = None
    dropped: int = 0
    unusable: int = 0
    known: KnownPoison | None = None
    worst: list[ExamplePair] = []
    groups: list[ScanGroup] = []
    planted: list[PlantedCount] = []
    sample: int = 0
    histogram: Histogram | None = None
    shards: list[ShardDrop] = []
    failed: list[FailedShard] = []
    left_out: LeftOutRows | None = None
    data_root: str | None = None
    data_format: str | None = None
    data_options: dict[str, Any] = {}
    seed: int = 0
    tool_version: str = ""


def read_scan(result: Path) -> DataScan:
    """Read a scan's `scan.json`.

    Args:
        result: The result folder.

    Raises:
        InputError: If the folder is not a scan result, or is broken.
    """
    file = result / SCAN_FILE
    if not file.exists():
        raise InputError(f"{file}: no such file; `mmpoison scan DATA --out {result}` writes it")
    return DataScan.read(file)
