"""Writes what a scan found: the pairs that go and stay, scores, groups, verdict and page."""
