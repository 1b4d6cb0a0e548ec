"""Generates the page "The paper's numbers and ours" from the numbers of all published runs.

python docs/tools/paper_overview.py            # says where lab/docs/results/paper/overview.md differs from runs.parquet
python docs/tools/paper_overview.py --write    # writes it
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from page_blocks import PAGES, WIDE, check_or_write

from mmpoison.reporting.results import Results
from mmpoison_lab.paper import PAPER, render_paper, write_page
from mmpoison_lab.paper.page import name_of
from mmpoison_lab.paper.write import RUNS_FILE

NAME = "overview"


def overview(file: Path, pages: Path) -> str:
    """Write the page as Markdown, without its front matter in the documentation.

    Args:
        file: The numbers of the runs.
        pages: The folder of the pages; the name of a table or figure links to its page, if it exists.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_page(render_paper(NAME, Results.read([file])), Path(folder), links=False)
        text = (Path(folder) / f"{NAME}.md").read_text(encoding="utf-8")
    there = {name_of(entry): entry for entry in PAPER if (pages / f"{entry}.md").is_file()}

    def linked(found: re.Match[str]) -> str:
        entry = there.get(found[1])
        return f"| [{found[1]}]({entry}.md) |" if entry else found[0]

    return re.sub(r"(?m)^\| ((?:Table|Figure) \w+) \|", linked, text)


if __name__ == "__main__":
    page = PAGES / f"{NAME}.md"
    sys.exit(check_or_write({page: WIDE + overview(PAGES / RUNS_FILE, PAGES)}))
