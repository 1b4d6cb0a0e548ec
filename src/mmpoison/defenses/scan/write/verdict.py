"""Turns a scan's findings into a verdict in plain words, with next steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mmpoison.base.text import count_of, count_phrase, percent
from mmpoison.defenses.scan.groups.describe import DescribedGroup
from mmpoison.defenses.scan.groups.levels import LIKELY, LOOK
from mmpoison.defenses.scan.groups.planted import PlantedSize
from mmpoison.records.data_scan import GroupGrade, ScanVerdict

FEWEST_PAIRS = 200
"""Minimum number of pairs for calling a group unusual: no smaller clean sets were measured."""


@dataclass(frozen=True)
class ScanFinding:
    """A scan's findings, for `verdict_of`.

    Attributes:
        pairs: Number of scanned pairs.
        groups: The groups, strongest first; None for methods without groups.
        planted: How many planted test goals the scan finds; None if none were planted.
        sample: Number of pairs into which they were planted.
        level: A group is called poisoning if at most this share of ordinary clean sets have one this strong.
        out_of_order: Whether some shard's captions and images do not belong together.
        traced: Whether two models were compared, instead of captions with images.
    """

    pairs: int
    groups: Sequence[DescribedGroup] | None
    planted: Sequence[PlantedSize] | None = None
    sample: int = 0
    level: float = LIKELY
    out_of_order: bool = False
    traced: bool = False

    def rare(self, level: float) -> list[DescribedGroup]:
        """Return the groups that at most a given share of ordinary clean sets contain."""
        return [one for one in self.groups or () if one.group.false_alarms <= level]


def grade_of(false_alarms: float, level: float) -> GroupGrade:
    """Return the grade of one group.

    Args:
        false_alarms: Share of ordinary clean sets that contain a group this strong.
        level: Largest share at which it is called poisoning.
    """
    if false_alarms <= level:
        return "poisoning likely"
    return "look at this group" if false_alarms <= LOOK else "as in clean data"


LARGE_SET = 10
"""How many times larger than the sample with test goals a set is in which such goals are harder to find."""


def verdict_of(found: ScanFinding) -> tuple[ScanVerdict, list[str]]:
    """Return the verdict, with sentences on the findings, their certainty, and what the scan can find."""
    if found.out_of_order:
        return "cannot be decided", [
            "In some shards the captions and images are in different orders, so the scores are meaningless."
        ]
    if found.groups is None:
        return "cannot be decided", [
            "This method scores single pairs, so it cannot say whether the data are poisoned towards a goal."
        ]
    if found.pairs < FEWEST_PAIRS:
        return "cannot be decided", [
            f"{count_phrase(found.pairs, 'pair')} too few to judge groups: a scan needs at least {FEWEST_PAIRS}."
        ]
    likely, look = found.rare(found.level), found.rare(max(LOOK, found.level))
    if look:
        verdict: ScanVerdict = "poisoning likely" if likely else "look at these groups"
        groups = likely or look
        pairs = len({int(row) for group in groups for row in group.rows})
        one = len(groups) == 1
        kind = "is stronger than" if one else "are stronger than"
        what = f"{kind} in clean data" if likely else f"{'deserves' if one else 'deserve'} a look"
        return verdict, [
            f"{count_of(len(groups), 'group')} {what}: {count_of(pairs, 'pair')}, {percent(pairs / found.pairs)} of "
            "all.",
            "Mislabelling can look like poison, so review the pairs.",
        ]
    if found.traced:
        return "cannot be decided", [
            "No group found: the model does not differ from this reference, which may carry the same poison."
        ]
    if found.planted is None:
        return "cannot be decided", [
            "No group stands out. This says little, because no test goals were planted."
        ]
    if not any(size.found for size in found.planted):
        return "cannot be decided", [
            "No group stands out. This says little, because the scan found no planted test goal. "
            f"{would_have_found(found)}"
        ]
    return "nothing stands out", [
        f"No group is stronger than those of clean data. {would_have_found(found)}"
    ]


def would_have_found(found: ScanFinding) -> str:
    """Describe in one sentence how many planted goals the scan finds.

    >>> sizes = [PlantedSize(10, 6, 1), PlantedSize(50, 6, 6)]
    >>> said = would_have_found(ScanFinding(100_000, (), planted=sizes, sample=5000))
    >>> for sentence in said.partition(": ")[2].split(". "):
    ...     print(sentence)
    1 of 6 on 10 images (0% to 64%), 6 of 6 on 50 images (54% to 100%)
    Among all 100,000, a goal needs more images.
    """
    if not found.planted:
        return "No kind of image is common enough to plant a test goal."
    sizes = ", ".join(
        f"{one.found} of {one.planted} on {one.images} images ({one.interval[0]:.0%} to {one.interval[1]:.0%})"
        for one in found.planted
    )
    large = found.pairs >= LARGE_SET * found.sample
    more = f" Among all {found.pairs:,}, a goal needs more images." if large else ""
    return f"Test goals found when planted in {found.sample:,} of these pairs: {sizes}.{more}"


@dataclass(frozen=True)
class ScanOutput:
    """A scan's output files, for `next_steps`.

    Attributes:
        out: Its folder.
        keep: Name of the file or folder that lists the kept pairs, if written.
        dropped: Number of pairs not on that list.
        pictures: Whether pairs can be shown with their images (`mmpoison review`).
        aligned: Whether scores are distances, which can be used to drop single pairs.
        singles: Whether single pairs were already dropped.
        kept: The folder of kept pairs, if written.
        labels: The file of labels that was used.
        again: The command that scans the same data again, without an output option; empty for a set in memory.
        images: The folder that image paths are relative to, if the data do not define it.
        data: The arguments with which a command reads the same data.
    """

    out: Path
    keep: str | None
    dropped: int
    pictures: bool
    aligned: bool
    singles: bool
    kept: Path | None = None
    labels: Path | None = None
    again: str = ""
    images: Path | None = None
    data: str = "--data PAIRS"

    def scan_again(self, *options: str) -> str:
        """Return the command for another scan of the same data, or words for a set in memory."""
        more = " ".join(options)
        if not self.again:
            return f"scan again with {more}" if more else "scan again"
        return f"{self.again} {more} --out {quote(f'{self.out}-2')}".replace("  ", " ")


def next_steps(found: ScanFinding, verdict: ScanVerdict, written: ScanOutput) -> list[str]:
    """Suggest what to do with the result, as commands."""
    out = quote(str(written.out))
    labels = quote(str(written.labels or f"{written.out}-labels.csv"))
    again = written.scan_again("--labels", labels)
    look = (
        f"mmpoison review {out} --labels {labels}" if written.pictures else f"open {out}/scan.html"
    )
    dropped = f" ({count_of(written.dropped, 'pair')} left out)" if written.dropped else ""
    train = []
    if written.kept is not None:
        train = [f"Train on the remaining pairs: {quote(str(written.kept))}"]
    elif written.keep and written.keep.startswith("kept"):
        root = "" if written.images is None else f", images in {quote(str(written.images))}"
        train = [f"Train on {out}/{written.keep}, your table{root}{dropped}."]
    elif written.keep:
        train = [f"Train on the pairs listed in {out}/{written.keep}{dropped}."]
    elif written.dropped:
        train = [
            f"To train on the remaining pairs{dropped}, repeat this command with --kept DIR and a new --out."
        ]
    singles = []
    if written.aligned and not written.singles:
        singles = ["To also drop single mismatched pairs: " + written.scan_again("--lose 0.02")]
    elif not written.aligned and found.groups is not None:
        singles = [
            "To also find single false pairs, scan "
            + (
                "with --method relevance-filter --lose 0.02 and a CLIP --encoder."
                if written.pictures
                else "CLIP embeddings."
            )
        ]
    if found.out_of_order:
        return ["Match captions and images by their ids, then scan again."]
    if found.groups is None:
        return [
            f"Review the most suspicious pairs: {look}",
            *train,
            "To look for poisoning goals: " + written.scan_again("--method suspicious-groups"),
        ]
    if found.pairs < FEWEST_PAIRS:
        return [f"Review all pairs yourself: {look}"]
    if found.traced:
        if found.rare(max(LOOK, found.level)):
            return [
                f"Review the pairs of each group: {look}",
                "Train without these pairs and those dropped by the scan for the reference. Use that model as the "
                "--reference of the next trace, until no group is found.",
                "To do all of this in one command (MODEL: the suspect before training): mmpoison train --model MODEL "
                f"{written.data} --defense scan-trace --out retrained",
                "To repair the model instead (SCAN: the scan for the reference): mmpoison sterilize --model SUSPECT "
                f"{written.data} --split train --unlearn {out} --unlearn SCAN --out repaired",
            ]
        return [
            "If the reference was trained on all pairs, train one on the pairs that a scan keeps and trace "
            "again: " + written.scan_again("--kept", quote(f"{written.out}-kept")),
            f"To measure a suspected goal: mmpoison evaluate --model SUSPECT {written.data} --goal A2B",
        ]
    if verdict == "poisoning likely":
        decide = [f"If some pairs are honest, keep them there, then: {again}"]
        around = [
            "A few false pairs may remain. To drop the most suspicious 2% of all pairs: "
            f"{written.scan_again('--lose 0.02')}"
        ]
        return [
            f"Review the pairs of each group: {look}",
            *(decide if written.pictures else []),
            *([] if written.aligned or written.singles else around),
            *train,
            *singles,
        ]
    if verdict == "look at these groups":
        drop = (
            f"If a group is false, drop it there, then: {again}"
            if written.pictures
            else f"If they are false, drop them: {written.scan_again(f'--false-alarms {LOOK:g}')}"
        )
        return [
            f"Review the pairs of each group: {look}",
            drop,
            "If they are honest, train on all pairs.",
            *train,
            *singles,
        ]
    if verdict == "nothing stands out":
        return [
            *train,
            "This is no proof: a scan cannot find captions that match their images, or goals smaller than those "
            "planted.",
            *singles,
        ]
    more = (
        "without --no-planted" if found.planted is None else "with another --encoder, or more pairs"
    )
    return [f"Scan again {more}.", f"Review the strongest groups anyway: {look}", *singles]
