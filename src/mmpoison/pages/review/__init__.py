"""A local page that shows suspicious pairs, one after the other, and takes keep, drop or unsure."""

from mmpoison.pages.review.app import add_neighbours, review_app, scanned_pairs

__all__ = [
    "add_neighbours",
    "review_app",
    "scanned_pairs",
]
