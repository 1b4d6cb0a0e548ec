"""The view `paper`: `mmpoison report RUNS --view table-3`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmpoison.runs import VIEWS, Written


class Paper:
    """The paper's tables and figures, with its numbers next to ours."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the tables and figures, such as `table-3` and `figure-5b`."""
        from mmpoison_lab.paper.entries import PAPER

        return list(PAPER)

    def write(
        self, names: Sequence[str], runs: Sequence[Path], out: Path, *, links: bool
    ) -> Sequence[Written]:
        """Write tables and figures with `write_paper`."""
        from mmpoison_lab.paper.write import write_paper

        return write_paper(names, runs, out, links=links)


VIEWS.register("paper")(Paper())
