"""Finds groups of pairs whose captions and images conflict more often than clean data explain.

The parts, from the bottom: `growth` (groups of conflicting items), `items` (images with their captions, single pairs,
and which of them are looked at in a large set), `fit` and `passes` (all of it over shards; a set in memory
is one), `planted` (what would be found), `describe` (groups in words), `levels` (how often clean data show one).
"""
