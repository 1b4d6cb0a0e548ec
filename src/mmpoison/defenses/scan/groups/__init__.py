"""Finds groups of pairs whose captions and images conflict more often than clean data explain.

The parts, from the bottom: `items` (images with their captions, and single pairs), `growth` (groups of conflicting
items), `cells` (which items of a large set are looked at), `fit` and `passes` (all of it over shards; a set in memory
is one), `planted` (what would be found), `describe` (groups in words), `levels` (how often clean data show one).
"""
