"""A finished scan, shown as lines in a terminal, pictures in a notebook, pandas tables, or an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PrivateAttr

from mmpoison.base import text as _text
from mmpoison.base.files import atomic_file
from mmpoison.base.text import count_of, percent, visible
from mmpoison.errors import InputError
from mmpoison.images.decode import SHOWN, picture_card
from mmpoison.records.data_scan import DataScan, ExamplePair, Histogram, PlantedCount, ScanGroup
from mmpoison.reporting.figure import Series, pictures_inside, series, template

GROUPS_SHOWN = 3
"""Number of groups shown in a terminal or notebook; the page has all."""


class ScanResult(DataScan):
    """A finished scan; a notebook shows its verdict and the first groups with pictures."""

    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def made(cls, scan: DataScan, folder: Path) -> ScanResult:
        """Return the result of a scan whose files are in `folder`."""
        found = cls.of(scan.to_json())
        found._folder = folder
        return found

    @property
    def folder(self) -> Path:
        """The folder with the lists of pairs and the page, `scan.html`."""
        return self._folder

    def __repr__(self) -> str:
        return "\n".join(map(visible, self.lines()))

    __str__ = __repr__

    def _repr_html_(self) -> str:
        parts = [
            f"<p><b>{escape(self.verdict.capitalize())}.</b> {escape(' '.join(self.summary))}</p>"
        ]
        for group in self._first()[:GROUPS_SHOWN]:
            cards = [
                picture_card(inside["own"], pair.id, pair.caption)
                for pair in group.examples
                if (inside := pictures_inside({"own": pair.picture}))
            ]
            parts.append(
                f"<p>{escape(f'{group.grade}: {group.sentence}')}</p>{''.join(cards[:SHOWN])}"
            )
        parts += [f"<p>next: {escape(step)}</p>" for step in self.next_steps]
        page = f"the page with all groups: {self.folder / 'scan.html'}"
        return f"<div>{''.join(parts)}<p>{escape(page)}</p></div>"

    def _first(self) -> list[ScanGroup]:
        """Return the groups that clean data do not explain, but always the first one, if any."""
        return self.groups[: max(1, sum(one.grade != "as in clean data" for one in self.groups))]

    def to_pandas(self, table: Literal["drop", "scores", "groups"] = "drop") -> Any:
        """Return a table of the scan as a `pandas.DataFrame`.

        Args:
            table: `drop`: the pairs to drop, with id, score, group, reason and the columns of your data; `scores`:
                every pair with its score; `groups`: the strongest groups, with their grade.

        Raises:
            InputError: If the file of the table is missing.
        """
        import pandas  # takes half a second

        if table == "groups":
            return pandas.DataFrame([group.to_json() for group in self.groups])
        file = self.folder / f"{table}.parquet"
        if not file.is_file():
            raise InputError(f"{file}: is missing: scan again")
        return pandas.read_parquet(file)

    def lines(self, kept: str | Path | None = None) -> list[str]:
        """Describe the scan, one line per fact, the verdict first.

        Args:
            kept: Where the remaining pairs were written, if they were.
        """
        lines = [f"{self.verdict.capitalize()}. {' '.join(self.summary)}"]
        shown = self._first()[:GROUPS_SHOWN]
        for number, group in enumerate(shown, 1):
            lines.append(f"  {number}. {group.grade}: {group.sentence}")
        if more := len(self.groups) - len(shown):
            lines.append(f"  {count_of(more, 'more group')}: see the page")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(
            f"{visible(self.source)}: {self.format}, {count_of(self.pairs, 'pair')} in "
            f"{count_of(len(self.shards), 'shard')}; "
            f"{self.dropped:,} dropped ({percent(self.dropped / max(self.pairs, 1))})"
            + _above(self)
        )
        if (known := self.known) is not None:
            lines.append(
                f"by the manifest: {known.poisoned_caught} of {known.poisoned_total} poisoned pairs and "
                f"{known.clean_dropped} clean pairs dropped"
                + (
                    ""
                    if known.auroc is None
                    else f", AUROC {known.auroc:.3f}, average precision {known.average_precision:.3f}"
                )
            )
        lines += [f"next: {step}" for step in self.next_steps]
        if kept is not None:
            lines.append(f"remaining pairs: {kept}")
        lines.append(f"details: {self.folder / 'scan.html'}; lists of pairs: {self.folder}")
        return lines


def _above(done: DataScan) -> str:
    """Return the end of a line: the threshold and the expected loss of clean pairs."""
    cut = done.cut
    if cut is None or cut.rule == "false-alarms":
        return ""
    text = f": scores above {cut.value:.4f}"
    if cut.interval is not None:
        text += " (95% confidence {:.4f} to {:.4f})".format(*cut.interval)
    if cut.loss is not None:
        text += f", expected to be {percent(cut.loss)} of the clean pairs"
        if cut.loss_interval is not None:
            text += " ({} to {})".format(*map(percent, cut.loss_interval))
    return text


SHARDS_SHOWN = 40


def write_scan_page(target: Path, scan: DataScan) -> Path:
    """Write the page and return its path: one offline file, with every string escaped.

    Web images are linked, not loaded: an attacker may control their servers.

    Args:
        target: The file.
        scan: The scan record.
    """
    shown = DataScan.of(_text.clean(scan.to_json()))
    groups = [
        {"number": number, "facts": group, "pairs": _shown(group.examples)}
        for number, group in enumerate(shown.groups, 1)
    ]
    worst = sorted(shown.shards, key=lambda shard: (-shard.dropped, shard.shard))
    page = template("scan").render(
        scan=shown,
        groups=groups,
        worst=_shown(shown.worst),
        planted=[(size, _power(size)) for size in shown.planted],
        curves=_curves(shown.histogram) if shown.histogram else {},
        cut=_cut(shown),
        shards=worst[:SHARDS_SHOWN],
    )
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _shown(pairs: Sequence[ExamplePair]) -> list[dict[str, Any]]:
    return [
        {
            "id": pair.id,
            "caption": pair.caption,
            "score": pair.score,
            "link": pair.address if pair.address and _text.is_web_address(pair.address) else None,
            "picture": pictures_inside({"own": pair.picture}).get("own"),
        }
        for pair in pairs
    ]


def _power(size: PlantedCount) -> Series:
    """Return the share of test goals of one size that were found, with its exact interval."""
    from scipy.stats import binomtest  # takes half a second

    interval = binomtest(size.found, size.planted).proportion_ci()
    share = size.found / size.planted
    ends = (interval.low, interval.high)
    return series(f"{_text.count(size.images)} images", [(0, share)], ends)[0]


def _cut(scan: DataScan) -> float | None:
    """Return the position of the cut in the score plot, in percent; None if it is not in it."""
    if scan.cut is None or scan.histogram is None or scan.cut.rule == "false-alarms":
        return None
    low, high = scan.histogram.edges[0], scan.histogram.edges[-1]
    return 100 * (scan.cut.value - low) / (high - low) if low < scan.cut.value < high else None


def _curves(histogram: Histogram) -> dict[str, str]:
    """Return each density as points in a drawing of 100 by 40; dropped pairs are a share of all."""
    edges = np.asarray(histogram.edges)
    densities = {
        name: np.asarray(counts) / (sum(of) * np.diff(edges))
        for name, counts, of in (
            ("pairs", histogram.own, histogram.own),
            ("dropped", histogram.dropped, histogram.own),
            ("shuffled", histogram.shuffled, histogram.shuffled),
        )
        if sum(counts)
    }
    x = 100 * ((edges[1:] + edges[:-1]) / 2 - edges[0]) / (edges[-1] - edges[0])
    top = max((density.max() for density in densities.values()), default=1)
    # a bin with any pairs stays visible
    return dict.fromkeys(("pairs", "dropped", "shuffled"), "") | {
        name: " ".join(
            f"{at:.2f},{40 - 39 * max(y / top, 0.01 * (y > 0)):.2f}"
            for at, y in zip(x, density, strict=True)
        )
        for name, density in densities.items()
    }
