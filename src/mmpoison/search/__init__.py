"""The image search engine: what several models bring up for the same query, side by side."""

from mmpoison.search.collection import Caption, Collection, DistinctCaptions, ShownGoal
from mmpoison.search.compare import Column, Hit, side_by_side
from mmpoison.search.embedded import DEPTH, Ranking
from mmpoison.search.engine import Answer, Engine, PairFacts
from mmpoison.search.library import Job, Library, Source

__all__ = [
    "DEPTH",
    "Answer",
    "Caption",
    "Collection",
    "Column",
    "DistinctCaptions",
    "Engine",
    "Hit",
    "Job",
    "Library",
    "PairFacts",
    "Ranking",
    "ShownGoal",
    "Source",
    "side_by_side",
]
