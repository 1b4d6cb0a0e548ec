"""The ICML 2023 paper as data: its recipes, its numbers, its tables and figures, and its claims.

Where a number of Table 3 comes from:

- `recipes/table-3.yaml`: the runs. `mmpoison run table-3 --on openmoji` makes them.
- `paper_values.json`, key `table-3`: the paper's own numbers, as they are printed.
- `tables.py`, the line of table 3 in `TABLES`: which rows of the runs it is made of, and how (`figures.py` and
  `draw.py` for figures; `entries.py` lists all). `mmpoison report RUNS --paper table-3` makes it.
- `measured.py`: how rows become a number: the mean over seeds of `metrics.json`.
- `claims.py`: the rule of each claim, decided by `claim.py` on paired intervals. `verdicts.py` binds each claim to its
  data and to its table or figure; `mmpoison report RUNS --claims`.
  `own_numbers.py` makes rows of the paper's printed numbers, to put them to the same rules.
"""

from mmpoison.reporting import Measured, Results
from mmpoison_lab.paper.claim import Claim, ClaimResult
from mmpoison_lab.paper.claims import CLAIMS
from mmpoison_lab.paper.entries import PAPER, Entry
from mmpoison_lab.paper.page import Page
from mmpoison_lab.paper.verdicts import claims_page, numbers_of, summary_page, write_claims
from mmpoison_lab.paper.write import Written, render_paper, write_page, write_paper

__all__ = [
    "CLAIMS",
    "PAPER",
    "Claim",
    "ClaimResult",
    "Entry",
    "Measured",
    "Page",
    "Results",
    "Written",
    "claims_page",
    "numbers_of",
    "render_paper",
    "summary_page",
    "write_claims",
    "write_page",
    "write_paper",
]
