"""`scan.json`: what a scan of a data set says, as its page and the command line show it."""

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
"""Grades: by how often ordinary clean sets show a group as strong as the strongest one."""


class ExamplePair(Record):
    """A pair that is shown.

    Attributes:
        id: Its id.
        caption: Its caption.
        address: Where its image is in the web, if the data say so.
        picture: A small picture, as a `data:` address.
        score: Its score, where it is shown for that.
    """

    id: str
    caption: str = ""
    address: str | None = None
    picture: str | None = None
    score: Number | None = None


class ScanGroup(Record):
    """A group of pairs whose captions of one kind are with images of another kind.

    Attributes:
        sentence: A sentence that describes it.
        grade: How suspicious it is; the pairs of a likely one are dropped.
        pairs: How many pairs it has.
        images: On how many images.
        false_alarms: Share of ordinary clean sets that show a group as strong, in (0, 1].
        false_alarms_hardest: The same share of the hardest kind of clean sets; None where that was not measured.
        score: How strong it is.
        why: What is suspicious about it.
        other_explanations: What else could explain it.
        captions_about: Words that set its captions apart.
        images_about: Words that set the captions of similar images apart.
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
    """How many of the goals that were planted into the data, as a test, the scan finds.

    Attributes:
        images: Images of each.
        planted: How many goals.
        found: How many were found.
    """

    images: int
    planted: int
    found: int


class Histogram(Record):
    """How many pairs have each score.

    Attributes:
        edges: One more than bins.
        own: Of the pairs.
        dropped: Of those that are dropped.
        shuffled: Of captions with random images, on a scale of its own; empty where that says nothing.
    """

    edges: list[Number]
    own: list[int]
    dropped: list[int] = []
    shuffled: list[int] = []


class FailedShard(Record):
    """A shard that could not be read.

    Attributes:
        shard: Its name.
        reason: Why, one line.
    """

    shard: str
    reason: str


class LeftOutRows(Record):
    """Rows of the data that give no pair: they are not judged, and neither kept nor dropped.

    Attributes:
        rows: How many, as far as that is known.
        examples: The first of them, a line each: where, and why.
    """

    rows: int = 0
    examples: list[str] = []


class ShardDrop(Record):
    """How much of a shard is dropped.

    Attributes:
        shard: Its name.
        pairs: How many it has.
        dropped: How many of them are dropped.
        unusable: How many have no usable embeddings.
    """

    shard: str
    pairs: int
    dropped: int
    unusable: int = 0


class KnownPoison(Record):
    """What the manifest of a poisoned set says of a scan.

    Attributes:
        poisoned_total: Poisoned pairs that were judged.
        poisoned_caught: Of these, how many are dropped.
        clean_dropped: Clean pairs that are dropped.
        clean_dropped_share: Their share of the clean pairs.
        auroc: How often a poisoned pair scores above a clean one.
        average_precision: Area under the curve of precision against recall.
    """

    poisoned_total: int
    poisoned_caught: int
    clean_dropped: int
    clean_dropped_share: Number | None = None
    auroc: Number | None = None
    average_precision: Number | None = None


class ScanCut(Record):
    """Where a scan cuts, as `mmpoison.defenses.Threshold` explains it."""

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
        data_path: Its path from the folder of the result; None for a set without a path.
        format: Its format.
        pairs: How many pairs it has, without shards that could not be read.
        method: What scored the pairs.
        encoder: The model that embedded them; None for precomputed embeddings.
        verdict: What comes out.
        summary: The verdict in words, and how sure it is.
        next_steps: What to do now.
        notes: What a reader must know besides.
        score_name: What the score of a pair is.
        cut: Where it cuts.
        methods: What was computed, a line each.
        judge_auroc: How often a caption is nearer to its own image than to a random one, in [0, 1].
        judge_interval: Its 95% interval.
        dropped: Pairs that are not to be used.
        unusable: Pairs among them whose embeddings are broken.
        known: What the manifest of a poisoned set says of it.
        worst: The most suspicious pairs, by a method without groups.
        groups: The strongest groups, at most ten, whatever their strength.
        planted: What the scan would have found.
        sample: In a sample of how many pairs.
        histogram: Of the scores.
        shards: Counts of the shards.
        failed: Shards that could not be read, and files of pairs that could not be read to their end.
        left_out: Rows that give no pair; None where every row gave one.
        data_root: The folder that image paths start from, from the folder of the result, where the data do not say it.
        data_format: The format that was named.
        data_options: Options of the format or data set.
        seed: Of everything random.
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
    """Read what a scan says of its result.

    Args:
        result: The folder of the scan.

    Raises:
        InputError: If it is no folder of a scan, or broken.
    """
    file = result / SCAN_FILE
    if not file.exists():
        raise InputError(f"{file}: no such file; `mmpoison scan DATA --out {result}` writes it")
    return DataScan.read(file)
