"""Finds groups of pairs whose captions and images conflict more often than clean data explain.

Modules, bottom up: `growth` (groups of conflicting items), `items` (images with their captions, single pairs, and
candidates in large sets), `fit` and `passes` (all of this over shards; a set in memory is one shard), `planted`
(planted test goals), `describe` (groups in words), `levels` (how often clean data contain such a group).
"""
