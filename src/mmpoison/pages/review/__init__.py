"""A local page that shows suspicious pairs, one after the other, and takes keep, drop or unsure."""

from mmpoison.pages.review.app import add_neighbours, filtered_pairs, review_app

__all__ = [
    "add_neighbours",
    "filtered_pairs",
    "review_app",
]
