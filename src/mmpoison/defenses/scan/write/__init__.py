"""Writes the results of a scan: dropped and kept pairs, scores, groups, verdict and page."""
