"""Checks a set of pairs: its table, its images, its manifest."""

from mmpoison.datasets.verify.pairs_check import Verification, load_to_verify, verify_pairs

__all__ = ["Verification", "load_to_verify", "verify_pairs"]
