"""The paper's tables and figures, rendered from runs: ours beside theirs, each number with a link to its runs."""

from mmpoison.reporting.paper._claim import CLAIMS, Claim, Finding
from mmpoison.reporting.paper._ours import Measured, Results
from mmpoison.reporting.paper._page import Page
from mmpoison.reporting.paper._registry import PAPER, Entry, in_order
from mmpoison.reporting.paper._verdicts import claims_page, write_claims
from mmpoison.reporting.paper._write import Written, render_paper, write_page, write_paper

__all__ = [
    "CLAIMS",
    "PAPER",
    "Claim",
    "Entry",
    "Finding",
    "Measured",
    "Page",
    "Results",
    "Written",
    "claims_page",
    "in_order",
    "render_paper",
    "write_claims",
    "write_page",
    "write_paper",
]
