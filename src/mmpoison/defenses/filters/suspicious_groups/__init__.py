"""Finds suspected goals, without labels: captions of one kind that are with images of another kind.

The parts, from the bottom: `shard` (vectors of a shard, and a sample of all), `items` (images with their captions, and
single pairs), `regressions` (captions against images), `growth` (groups of conflicting items), `cells` (which items of
a large set are looked at), `fit` and `passes` (all of it over shards; a set in memory is one), `planted` (what would be
found), `words` (groups in words), `features` (from an encoder), `defense` (the defence in the registry, which alone
imports torch).
"""
