"""The paper's tables and figures, rendered from runs: ours beside theirs, each number with a link to its runs."""

from mmpoison.paper.claim import CLAIMS, Claim, Finding
from mmpoison.paper.measured import Measured, Results
from mmpoison.paper.page import Page
from mmpoison.paper.registry import PAPER, Entry, in_order
from mmpoison.paper.verdicts import claims_page, write_claims
from mmpoison.paper.write import Written, render_paper, write_page, write_paper

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
