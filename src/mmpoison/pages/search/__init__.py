"""The image search engine: results of several models for the same query, side by side."""

from mmpoison.pages.search.collection import Caption, Collection, DistinctCaptions, ShownGoal
from mmpoison.pages.search.embedded import DEPTH, Ranking
from mmpoison.pages.search.engine import Answer, Engine, Hit, PairFacts, ResultColumn, side_by_side
from mmpoison.pages.search.library import Job, Library, Source

__all__ = [
    "DEPTH",
    "Answer",
    "Caption",
    "Collection",
    "DistinctCaptions",
    "Engine",
    "Hit",
    "Job",
    "Library",
    "PairFacts",
    "Ranking",
    "ResultColumn",
    "ShownGoal",
    "Source",
    "side_by_side",
]
