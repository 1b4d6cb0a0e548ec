"""A local page that shows suspicious pairs, one after the other, and takes keep, drop or unsure."""

from mmpoison.pages.review.app import review_app
from mmpoison.pages.review.filtered import filtered_pairs
from mmpoison.pages.review.neighbours import add_neighbours

__all__ = [
    "add_neighbours",
    "filtered_pairs",
    "review_app",
]
