"""The ICML 2023 paper as data: its recipes, its numbers, its tables and figures.

Where a number of Table 3 comes from:

- `recipes/table-3.yaml`: the runs, started by `mmpoison run table-3 --on openmoji`.
- `paper_values.json`, key `table-3`: the paper's own numbers, as printed.
- `tables.py`, the entry of table 3 in `TABLES`: selects rows of the runs and builds the table
  (`figures.py` and `draw.py` for figures; `entries.py` lists all).
  `mmpoison report RUNS --view table-3` writes it.
- `measured.py`: selects and groups rows; `Results.measured` averages them over seeds.
- `overview.py`: the main numbers of all tables next to the paper's, and the paper's main
  differences in words.
"""

from mmpoison.reporting import Measured, Results
from mmpoison_lab.paper.entries import PAPER, Entry
from mmpoison_lab.paper.page import Page
from mmpoison_lab.paper.write import Written, render_paper, write_page, write_paper

__all__ = [
    "PAPER",
    "Entry",
    "Measured",
    "Page",
    "Results",
    "Written",
    "render_paper",
    "write_page",
    "write_paper",
]
