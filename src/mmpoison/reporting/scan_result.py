"""A finished scan, shown as lines in a terminal, pictures in a notebook, or pandas tables."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr

from mmpoison.base.phrasing import count_of
from mmpoison.errors import InputError
from mmpoison.images.thumbnails import SHOWN, picture_card
from mmpoison.records.data_scan import DataScan, ScanGroup
from mmpoison.reporting.figure import pictures_inside
from mmpoison.reporting.text import percent, visible

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
