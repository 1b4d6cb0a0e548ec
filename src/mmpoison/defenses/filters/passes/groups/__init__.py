"""Suspicious groups in passes over shards.

The memory does not grow with the data set, and the result does not depend on how many processes compute it.
`mmpoison.runs.data_scan.scan_embedded` runs them.

The passes, each a function of a shard and of what earlier passes found; parts are merged in the order of the shards:

1. `sample_part` draws a sample (`sample`); `fit_start` fits the spaces and first regressions to it.
2. `sums_part` adds the sums of the regressions over all rows; `fit_model` solves them.
3. `counts_part` scores the conflict of every row and counts rows in cells; `flag` chooses cells.
4. `gather_part` reads items of flagged cells; `find` compares them and finds clusters.
5. `score_part` scores all rows; `groups_of` joins the clusters.

Passes 2 and 3 read all rows, the others a few. Every part has `to_arrays` and `from_arrays`.
"""
