"""Checks a set of pairs: its table, its images, its manifest."""

from mmpoison.datasets.verify.pairs_check import load_to_verify, verify_pairs
from mmpoison.datasets.verify.report import Verification

__all__ = ["Verification", "load_to_verify", "verify_pairs"]
