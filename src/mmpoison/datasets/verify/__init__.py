"""Checks a set of pairs: its table, its images, its manifest."""

from mmpoison.datasets.verify.report import Verification
from mmpoison.datasets.verify.verify_pairs import load_to_verify, verify_pairs

__all__ = ["Verification", "load_to_verify", "verify_pairs"]
