"""The claims of the paper that can be tested, each with the rule by which it holds."""

from __future__ import annotations

# each module adds its rules to the registry
from mmpoison.paper import attack_claims, defence_claims, encoder_claims, study_claims
from mmpoison.paper.claim import CLAIMS, Claim, Finding

__all__ = [
    "CLAIMS",
    "Claim",
    "Finding",
    "attack_claims",
    "defence_claims",
    "encoder_claims",
    "study_claims",
]
